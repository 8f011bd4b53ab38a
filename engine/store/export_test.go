package store

// AtCrashPoint calls fn within each round, after each of its transactions, with how
// many operations are left.
func AtCrashPoint(s *Badger, fn func(left int)) {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.atCrashPoint = fn
}

// BetweenRounds calls fn while no round is being written.
func BetweenRounds(s *Badger, fn func()) {
	_ = s.exclusively(func() error {
		fn()
		return nil
	})
}

// CheckedFirst sets how many bytes of tables are checked before a store opens, until the
// function that it gives is called.
func CheckedFirst(n int64) func() {
	was := checkedFirst
	checkedFirst = n
	return func() { checkedFirst = was }
}
