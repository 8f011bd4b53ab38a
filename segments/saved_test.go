package segments_test

import (
	"fmt"
	"strings"
	"testing"

	"kith/proto"
	"kith/segments"
)

// shelf is saved audiences by name.
type shelf map[proto.AudienceID]string

func (s shelf) open(id proto.AudienceID) (*segments.Audience, error) {
	text, ok := s[id]
	if !ok {
		return nil, proto.Errorf(proto.CodeNotFound, "there is no @%s", id)
	}
	return segments.ParseAudience(text)
}

func (s shelf) expand(text string) (*segments.Audience, error) {
	a, err := segments.ParseAudience(text)
	if err != nil {
		return nil, err
	}
	return a.Expand(s.open)
}

func TestSavedAudiencesAreWrittenOut(t *testing.T) {
	s := shelf{"buyers": "auto & !owners", "more": "@buyers | travel", "not": "!auto"}
	for text, want := range map[string]string{
		"auto":                "auto",
		"@buyers":             "auto & !owners",
		"@buyers & news":      "auto & !owners & news",
		"!@buyers":            "!(auto & !owners)",
		"!@not":               "auto",
		"@more|@more":         "auto & !owners | travel | auto & !owners | travel",
		"news & @more":        "news & (auto & !owners | travel)",
		"@buyers & !(@not|a)": "auto & !owners & !(!auto | a)",
	} {
		a, err := s.expand(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if a.String() != want || len(a.Saved()) != 0 {
			t.Errorf("%s is written out as %q, want %q", text, a, want)
		}
		again, err := segments.ParseAudience(a.String())
		if err != nil || fmt.Sprint(again.Segments()) != fmt.Sprint(a.Segments()) {
			t.Errorf("%s names %v, its text %v (%v)", text, a.Segments(), again.Segments(), err)
		}
	}
}

func TestSavedAudiencesAreBounded(t *testing.T) {
	s := shelf{"a": "@b", "b": "x & @c", "c": "!@a", "long": strings.Repeat("x|", 500) + "x"}
	for i := range 40 {
		s[proto.AudienceID(fmt.Sprint("deep", i))] = fmt.Sprintf("@deep%d", i+1)
		s[proto.AudienceID(fmt.Sprint("wide", i))] = fmt.Sprintf("@wide%d | @wide%d", i+1, i+1)
	}
	s["deep40"], s["wide40"], s["wide14"] = "x", "x", "x"
	nested := func(levels int, inner string) string {
		return strings.Repeat("!(x & ", levels) + inner + strings.Repeat(")", levels)
	}
	s["nested"] = nested(150, "y")
	for text, want := range map[string]string{
		"@a":                  "names itself",
		"@long & @long":       "more than 1000 times",
		"@deep0":              "16 deep",
		"@wide0":              "more than 1000 times",
		"@gone":               "no @gone",
		nested(60, "@nested"): "nested more than 200 deep", // what is written out can be read again
		"@":                   "name of a saved audience",
		"@ a":                 "name of a saved audience",
		"@.x":                 "name of a saved audience",
		"a@b":                 "stands where",
	} {
		_, err := s.expand(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	if _, err := s.expand("@deep25"); err != nil {
		t.Errorf("sixteen deep: %v", err)
	}
}
