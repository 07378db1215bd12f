"""What was predicted, in the forms that others read: BIDS derivatives, DICOM segmentations and structured reports."""
