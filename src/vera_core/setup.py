from setuptools import find_packages, setup

package_name = 'vera_core'

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
    description='What all rooms share: contract, canvas, image codec, clocks, lifecycle node base.',
    license='Apache-2.0',
)
