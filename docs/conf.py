"""Settings of Sphinx for `make docs`."""

project = 'VERA-ROS'
author = 'the VERA-ROS authors'
copyright = author + '. Apache-2.0'  # noqa: A001  Sphinx's name
html_title = 'VERA-ROS'

extensions = ['myst_parser']
source_suffix = {'.md': 'markdown'}
exclude_patterns = ['images', 'how-to/example']
# Headings can be linked to as on GitHub: page.md#what-is-limited
myst_heading_anchors = 4

html_theme = 'furo'
html_static_path = ['static']
html_css_files = ['tables.css']
html_copy_source = False
html_show_sphinx = False
# No program code in these pages is coloured by guessing; a block says what it is.
highlight_language = 'none'
