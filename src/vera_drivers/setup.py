from setuptools import find_packages, setup

package_name = 'vera_drivers'

setup(
    name=package_name,
    version='0.1.0',
    packages=find_packages(exclude=['test', 'test.*']),
    data_files=[
        ('share/ament_index/resource_index/packages', ['resource/' + package_name]),
        ('share/' + package_name, ['package.xml']),
    ],
    install_requires=['setuptools'],
    zip_safe=False,
    maintainer='VERA-ROS maintainers',
    maintainer_email='maintainers@users.noreply.github.com',
    description='Cameras and the simulator as ROS 2 nodes.',
    license='Apache-2.0',
    entry_points={
        'console_scripts': [
            'sim_node = vera_drivers.nodes.sim_node:main',
            'camera_node = vera_drivers.nodes.camera_node:main',
            'scene_node = vera_drivers.nodes.scene_node:main',
        ],
    },
)
