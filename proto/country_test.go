package proto_test

import (
	"testing"

	"kith/proto"
)

func TestCountryOf(t *testing.T) {
	for in, want := range map[string]string{
		"DE": "DE", "de": "DE", " FR ": "FR", "US-CA": "US", "AD": "AD", "ZW": "ZW", "XK": "XK", "RE": "RE", "AX": "AX",
		"UK": "GB", "uk": "GB", "EL": "GR",
		"": "", "XX": "", "ZZ": "", "EU": "", "AP": "", "AA": "", "T1": "", "D ": "", " D": "", "D E": "", "DEU": "", "Germany": "", "D\x80": "", "-DE": "",
	} {
		if got := proto.CountryOf(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	n := 0
	for a := 'A'; a <= 'Z'; a++ {
		for b := 'A'; b <= 'Z'; b++ {
			if s := string([]rune{a, b}); proto.CountryOf(s) == s {
				n++
			}
		}
	}
	if n != 250 { // 249 of the standard, and Kosovo's
		t.Errorf("%d countries", n)
	}
}
