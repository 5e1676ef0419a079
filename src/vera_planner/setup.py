from setuptools import find_packages, setup

package_name = 'vera_planner'

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
    description='Video planners: a sentence and recent frames in, imagined frames out.',
    license='Apache-2.0',
    entry_points={
        'console_scripts': [
            'planner_node = vera_planner.nodes.planner_node:main',
        ],
    },
)
