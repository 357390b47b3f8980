"""The engines that can be asked, one module each."""
