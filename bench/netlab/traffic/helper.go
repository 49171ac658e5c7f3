package traffic

// RunIfHelper turns this process into a traffic helper.
func RunIfHelper() {}
