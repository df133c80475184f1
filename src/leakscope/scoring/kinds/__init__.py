"""One kind of claim per file: what it is compared with, what a blind guess of it scores, what a person is shown."""
