package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"kith/proto"
)

// Duration is a Go duration, or a whole number of days or weeks: 90s, 24h,
// 30d, 2w.
type Duration time.Duration

// UnmarshalYAML reads the forms above; an error carries the line.
func (d *Duration) UnmarshalYAML(n ast.Node) error {
	t := n.GetToken()
	v, err := ParseDuration(t.Value)
	if err != nil {
		e := proto.Errorf(proto.CodeInvalid, "%s", err.Error())
		e.Line, e.Column = t.Position.Line, t.Position.Column
		return e
	}
	*d = Duration(v)
	return nil
}

func (d Duration) String() string { return time.Duration(d).String() }

// ParseDuration reads a Go duration, or days or weeks.
func ParseDuration(s string) (time.Duration, error) {
	for suffix, unit := range map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour} {
		digits, ok := strings.CutSuffix(s, suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 16)
		if err != nil || time.Duration(n) > (1<<63-1)/unit {
			return 0, badDuration(s)
		}
		return time.Duration(n) * unit, nil
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return 0, badDuration(s)
	}
	return v, nil
}

func badDuration(s string) error {
	return fmt.Errorf("%q is not a duration: write 90s, 15m, 24h, 30d or 2w", s)
}
