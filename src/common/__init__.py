"""What all parts need and none owns: commands, files, words, signals, pictures. It knows no run and no config."""
