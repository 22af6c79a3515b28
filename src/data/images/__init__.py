"""Images and their labels or masks: files, users' folders of them, augmentation."""
