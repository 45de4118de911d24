"""What models are run on: files, images, sounds and random inputs, batch by batch."""
