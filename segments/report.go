package segments

import (
	"slices"

	"kith/proto"
)

// Limits of what report keys of one client are told.
const (
	ReportsPerDayMax = 200  // distinct audiences
	ReportExprMax    = 2048 // bytes of an expression, saved audiences written out
	ReportRoundedTo  = 10
)

// Verdict is what became of a report's question. It outlives the process.
type Verdict uint32

// The verdicts.
const (
	VerdictTold  Verdict = 1 // a rounded figure was told
	VerdictBelow Verdict = 2 // fewer than the floor
	VerdictClose Verdict = 3 // refused: too close to another audience
)

// String is what a verdict is called.
func (v Verdict) String() string {
	switch v {
	case VerdictTold:
		return "told"
	case VerdictBelow:
		return "below"
	}
	return "refused"
}

// Report is one distinct audience that report keys asked for on a day, and what
// they were told: for that day it stays what it is, whatever becomes of the set.
type Report struct {
	Day         proto.Day
	Audience    *Audience // expanded
	Unit        string
	Count, Told uint64 // exact, for those who decide; and told
	Verdict     Verdict

	key string
}

// Measure is what is to be known of an audience to decide about it.
type Measure struct {
	Count uint64 // in the unit asked for
	Few   bool   // it has fewer people than the floor
	Close bool   // so does its difference to one of the rivals
}

// ReportBook is what the report keys of one client were told on the last day
// and the day before. At most ReportsPerDayMax each. The zero value is empty.
type ReportBook struct {
	days   DayBook[Report]
	unread proto.Day // the newest day of a report that this build cannot read, 0 if there is none
}

// Take writes a report down. Those of a day before the newest are too late and
// are ignored.
func (b *ReportBook) Take(r Report) {
	r.key = r.Audience.Key()
	b.days.Put(r.Day, r)
}

// Pass notes that there is a report on a day that this build cannot read.
func (b *ReportBook) Pass(day proto.Day) { b.unread = max(b.unread, day) }

// Unread reports whether there is such a one that figures of a day would have to be
// compared with.
func (b *ReportBook) Unread(day proto.Day) bool { return b.unread > 0 && b.unread+1 >= day }

// Day is the day that it is for a question asked on now, as DayBook's.
func (b *ReportBook) Day(now proto.Day) proto.Day { return b.days.Day(now) }

// All are the reports of the last day and the day before, oldest first.
func (b *ReportBook) All() []Report { return slices.Concat(b.days.before, b.days.today) }

// Asked counts the distinct audiences of a day. Two questions that are decided
// with the same number between them know of one another.
func (b *ReportBook) Asked(day proto.Day) int {
	today, _ := b.days.On(day)
	return len(today)
}

// Find is what was told of the same audience in the same unit on the day.
func (b *ReportBook) Find(day proto.Day, a *Audience, unit string) (Report, bool) {
	today, _ := b.days.On(day)
	return find(today, a.Key(), unit)
}

func find(list []Report, key, unit string) (Report, bool) {
	i := slices.IndexFunc(list, func(r Report) bool { return r.key == key && r.Unit == unit })
	if i < 0 {
		return Report{}, false
	}
	return list[i], true
}

// Rivals are the audiences of which figures were told on the day and the day
// before, and those that are left without them, without those that are a itself:
// from no two figures, and how many there are in all, may one learn of fewer
// people than the floor. The day before counts too, because a minute can lie
// between the two.
func (b *ReportBook) Rivals(day proto.Day, a *Audience) (out []*Audience) {
	seen := map[string]bool{a.Key(): true}
	today, before := b.days.On(day)
	for _, r := range slices.Concat(today, before) {
		if r.Verdict != VerdictTold {
			continue
		}
		for _, rival := range []*Audience{r.Audience, r.Audience.complement()} {
			if key := rival.Key(); !seen[key] {
				seen[key] = true
				out = append(out, rival)
			}
		}
	}
	return out
}

// Decide is what to tell. edge, below ReportRoundedTo, is a secret that stays
// the same for an audience: who adds people of their own cannot find out where
// the rounding jumps.
func (b *ReportBook) Decide(day proto.Day, a *Audience, unit string, m Measure, floor int, edge uint64) Report {
	r := Report{Day: day, Audience: a, Unit: unit, Count: m.Count, Verdict: VerdictTold}
	switch {
	case m.Few || m.Count < uint64(floor):
		r.Verdict = VerdictBelow
	case m.Close:
		r.Verdict = VerdictClose
	default:
		r.Told = RoundReport(m.Count, floor, edge)
		b.keep(&r, floor)
	}
	return r
}

// keep lets a figure stay what it was the day before unless at least as many as
// the floor came or went since it was decided.
func (b *ReportBook) keep(r *Report, floor int) {
	_, before := b.days.On(r.Day)
	old, ok := find(before, r.Audience.Key(), r.Unit)
	if ok && old.Verdict == VerdictTold && max(old.Count, r.Count)-min(old.Count, r.Count) < uint64(floor) {
		r.Count, r.Told = old.Count, old.Told
	}
}

// RoundReport is count as a multiple of ReportRoundedTo next to it, not below the floor.
func RoundReport(count uint64, floor int, edge uint64) uint64 {
	const to = ReportRoundedTo
	least := (uint64(max(floor, 0)) + to - 1) / to * to
	return max((count+edge)/to*to, least)
}
