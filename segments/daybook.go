package segments

import "kith/proto"

// DayBook is what was written down on the last day and the day before. The zero
// value is empty.
type DayBook[T any] struct {
	day           proto.Day
	today, before []T
}

// Put writes x down. What is of a day before the newest is too late and is ignored.
func (b *DayBook[T]) Put(day proto.Day, x T) {
	if day < b.day {
		return
	}
	today, before := b.On(day)
	b.day, b.today, b.before = day, append(today, x), before
}

// Day is the day that it is for a question asked on now: never one before the
// newest in the book, so that a clock set back opens no new day.
func (b *DayBook[T]) Day(now proto.Day) proto.Day { return max(now, b.day) }

// On is what was written down on a day and on the one before.
func (b *DayBook[T]) On(day proto.Day) (today, before []T) {
	switch day {
	case b.day:
		return b.today, b.before
	case b.day + 1:
		return nil, b.today
	}
	return nil, nil
}
