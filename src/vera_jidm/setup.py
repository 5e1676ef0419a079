from setuptools import find_packages, setup

package_name = 'vera_jidm'

setup(
    name=package_name,
    version='0.1.0',
    packages=find_packages(exclude=['test', 'test.*']),
    package_data={package_name: ['checkpoints/*.safetensors', 'checkpoints/*.json']},
    data_files=[
        ('share/ament_index/resource_index/packages', ['resource/' + package_name]),
        ('share/' + package_name, ['package.xml']),
    ],
    install_requires=['setuptools'],
    zip_safe=False,
    maintainer='VERA-ROS maintainers',
    maintainer_email='maintainers@users.noreply.github.com',
    description='From imagined frames to actions: optical flow, image-space Jacobian, ridge solve.',
    license='Apache-2.0',
    entry_points={
        'console_scripts': [
            'translator_node = vera_jidm.nodes.translator_node:main',
        ],
    },
)
