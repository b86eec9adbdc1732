from srgan_ray.cli import main

main()
