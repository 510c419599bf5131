"""What a person launches: the command line, its options and one build function per job."""
