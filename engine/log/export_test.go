package log

// AmbiguousError is an error as after an append without an answer.
func AmbiguousError(why string) error { return ambiguous(why) }
