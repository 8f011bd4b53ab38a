package store

// AtCrashPoint calls fn when a staged batch's marker is about to be written,
// or, if marked, has just been.
func AtCrashPoint(s *Badger, marked bool, fn func()) {
	s.atCrashPoint = func(m bool) {
		if m == marked {
			fn()
		}
	}
}
