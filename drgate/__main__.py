from drgate.cli import main

main()
