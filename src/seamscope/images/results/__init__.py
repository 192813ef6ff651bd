"""Where results are written: values and labels of any size, in files of many kinds."""
