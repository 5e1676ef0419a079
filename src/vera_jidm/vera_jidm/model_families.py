"""What families of Jacobian networks there are, in words, for a list that needs no torch."""

FAMILIES = {
    'convolutional': 'small U-Net for a CPU, the default, with shipped weights',
    'dinov2': 'DINOv2-small (Apache-2.0, through transformers), DPT neck and head',
    'vggt': 'DPT head over VGGT or another joint multi-view backbone that you bring',
}
