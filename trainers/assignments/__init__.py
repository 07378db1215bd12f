"""The ways of bringing lesions to the locations of a map, for the Retina U-Net family."""
