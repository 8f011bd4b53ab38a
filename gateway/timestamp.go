package gateway

import (
	"strings"
	"time"

	"kith/proto"
)

// parseTimestamp reads an RFC 3339 time as time.Parse does, quickly in its
// usual forms, and with small letters too, as RFC 3339 has it.
func parseTimestamp(s string) (proto.Millis, bool) {
	if m, ok := quickTimestamp(s); ok {
		return m, true
	}
	t, err := time.Parse(time.RFC3339, strings.ToUpper(s))
	return proto.MillisOf(t), err == nil
}

// queryTime reads a time of a query. The zero time is refused: behind the gateway it
// stands for none.
func queryTime(name, s string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, strings.ToUpper(s))
	switch {
	case err != nil:
		return t, proto.Errorf(proto.CodeTime, "%s is %q: send RFC 3339, such as 2026-11-28T12:00:00Z", name, clip(s))
	case t.IsZero():
		return t, proto.Errorf(proto.CodeTime, "%s is %q, which is how programs write that there is none: leave it out", name, clip(s))
	}
	return t, nil
}

// quickTimestamp reads 2006-01-02T15:04:05, a fraction of up to nine digits
// and Z or an offset. Whatever else it leaves to time.Parse.
func quickTimestamp(s string) (proto.Millis, bool) {
	if len(s) < 20 || s[4] != '-' || s[7] != '-' || s[10] != 'T' || s[13] != ':' || s[16] != ':' {
		return 0, false
	}
	year, month, day := digits2(s, 0)*100+digits2(s, 2), digits2(s, 5), digits2(s, 8)
	hour, minute, second := digits2(s, 11), digits2(s, 14), digits2(s, 17)
	if year < 1 || month < 1 || month > 12 || day < 1 || day > daysIn(year, month) || uint(hour) > 23 || uint(minute) > 59 || uint(second) > 59 {
		return 0, false
	}
	ms, rest := quickFraction(s[19:])
	offset, ok := quickOffset(rest)
	if !ok || ms < 0 {
		return 0, false
	}
	secs := (daysSinceEpoch(year, month, day)*24+hour)*60 + minute - offset
	return proto.Millis((secs*60+second)*1000 + ms), true
}

// digits2 is the number at s[i:i+2], far below zero if they are not digits.
func digits2(s string, i int) int {
	a, b := int(s[i]-'0'), int(s[i+1]-'0')
	if a > 9 || b > 9 {
		return -1 << 20
	}
	return a*10 + b
}

// quickFraction takes ".123456" off s, cut to milliseconds; ms < 0 if it is
// not one.
func quickFraction(s string) (ms int, rest string) {
	if s[0] != '.' {
		return 0, s
	}
	i := 1
	for scale := 100; i < len(s) && s[i]-'0' <= 9; i++ {
		ms += int(s[i]-'0') * scale
		scale /= 10
	}
	if i == 1 || i > 10 {
		return -1, ""
	}
	return ms, s[i:]
}

// quickOffset reads Z or +hh:mm as minutes ahead of UTC.
func quickOffset(s string) (minutes int, ok bool) {
	if s == "Z" {
		return 0, true
	}
	if len(s) != 6 || s[0] != '+' && s[0] != '-' || s[3] != ':' {
		return 0, false
	}
	h, m := digits2(s, 1), digits2(s, 4)
	if uint(h) > 23 || uint(m) > 59 {
		return 0, false
	}
	if s[0] == '-' {
		return -h*60 - m, true
	}
	return h*60 + m, true
}

func daysIn(year, month int) int {
	switch month {
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	case 4, 6, 9, 11:
		return 30
	}
	return 31
}

// daysSinceEpoch counts from 1970-01-01 in the proleptic Gregorian calendar,
// with years that begin in March so that the leap day comes last.
func daysSinceEpoch(year, month, day int) int {
	if month <= 2 {
		year--
		month += 12
	}
	return 365*year + year/4 - year/100 + year/400 + (153*(month-3)+2)/5 + day - 719469
}
