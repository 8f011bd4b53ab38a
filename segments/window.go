package segments

import (
	"strconv"
	"strings"
	"time"

	"kith/proto"
)

// WindowMax is the longest window: ten years, whichever ten.
const WindowMax = 10 * 366 * day

const day = 24 * time.Hour

// dayMillis is a UTC day.
const dayMillis = proto.Millis(day / time.Millisecond)

// windowUnits are those that time.ParseDuration knows, longest name first.
var windowUnits = [...]struct {
	name string
	unit time.Duration
}{{"ms", time.Millisecond}, {"w", 7 * day}, {"d", day}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}}

// ParseWindow reads a length of time: whole or decimal numbers with the units
// w, d, h, m, s and ms, such as "30d", "1w2d" or "1.5h". It is a whole number
// of milliseconds, more than none and at most WindowMax. CodeRule if not.
func ParseWindow(s string) (time.Duration, error) {
	if s == "" || len(s) > 64 {
		return 0, badWindow(s, "write a number and a unit, such as \"30d\"")
	}
	var sum time.Duration
	for rest := s; rest != ""; {
		part, tail, err := windowPart(rest)
		if err != "" {
			return 0, badWindow(s, err)
		}
		if part > WindowMax-sum {
			return 0, badWindow(s, tooLong)
		}
		sum, rest = sum+part, tail
	}
	if sum <= 0 || sum%time.Millisecond != 0 {
		return 0, badWindow(s, "it must be a whole number of milliseconds, at least 1ms")
	}
	return sum, nil
}

// windowPart takes the first number and unit off s; why is "" if it could.
func windowPart(s string) (d time.Duration, rest, why string) {
	n := strings.IndexFunc(s, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	if n <= 0 {
		return 0, "", "write a number and a unit, such as \"30d\""
	}
	number, rest := s[:n], s[n:]
	for _, u := range windowUnits {
		if tail, ok := strings.CutPrefix(rest, u.name); ok {
			d, why = windowTimes(number, u.unit, u.name)
			return d, tail, why
		}
	}
	return 0, "", "the units are w, d, h, m, s and ms"
}

func windowTimes(number string, unit time.Duration, name string) (time.Duration, string) {
	if unit < day {
		d, err := time.ParseDuration(number + name)
		if err != nil {
			return 0, "the number " + strconv.Quote(clip(number)) + " does not parse"
		}
		return d, ""
	}
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil {
		return 0, "days and weeks are whole numbers of at most four digits: use hours for parts of them"
	}
	if n > uint64(WindowMax/unit) { // before it can pass what a Duration holds
		return 0, tooLong
	}
	return time.Duration(n) * unit, ""
}

const tooLong = "the longest is ten years"

func badWindow(s, why string) *proto.Error {
	return proto.Errorf(proto.CodeRule, "window %q is not valid: %s", clip(s), why)
}

// windowText is the canonical text of a window.
func windowText(ms proto.Millis) string {
	b := make([]byte, 0, 16)
	for _, u := range [...]struct {
		name string
		ms   proto.Millis
	}{{"d", dayMillis}, {"h", 3_600_000}, {"m", 60_000}, {"s", 1000}, {"ms", 1}} {
		if n := ms / u.ms; n > 0 {
			b = strconv.AppendInt(b, int64(n), 10)
			b = append(b, u.name...)
			ms -= n * u.ms
		}
	}
	return string(b)
}
