"""What every dense layer was fed, sample by sample, from the output layer's rows down."""
