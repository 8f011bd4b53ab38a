package proto_test

import (
	"strings"
	"testing"

	"kith/proto"
)

func TestParseRedirectPrefix(t *testing.T) {
	for s, want := range map[string]string{ // "": refused
		"https://a.example":                               "https://a.example",
		"https://a.example/":                              "https://a.example",
		"https://a-b.example/match/":                      "https://a-b.example/match",
		"https://localhost/x":                             "https://localhost/x",
		"https://xn--mnchen-3ya.example/a.b~":             "https://xn--mnchen-3ya.example/a.b~",
		"":                                                "",
		"https://":                                        "",
		"https:///x":                                      "",
		"http://a.example":                                "",
		"HTTPS://a.example":                               "",
		"https://A.example":                               "",
		"https://a.example:443":                           "",
		"https://u@a.example":                             "",
		"https://a.example?x":                             "",
		"https://a.example/x?y":                           "",
		"https://a.example#x":                             "",
		"https://a.example/x#y":                           "",
		"https://a.example/%41":                           "",
		"https://a.example/{id}":                          "",
		"https://a.example/a//b":                          "",
		"https://a.example//":                             "",
		"https://a.example/../b":                          "",
		"https://a.example/b/..":                          "",
		"https://a.example/./b":                           "",
		"https://a.example\\b":                            "",
		"https://*.example":                               "",
		"https://a..example":                              "",
		"https://.example":                                "",
		"https://a.example.":                              "",
		"https://-a.example":                              "",
		"https://a-.example":                              "",
		"https://192.0.2.1/x":                             "",
		"https://a.0x7f":                                  "",
		"https://[2001:db8::1]/x":                         "",
		"https://münchen.example":                         "",
		"https://a.example/ü":                             "",
		" https://a.example":                              "",
		"https://a.example/ ":                             "",
		"https://" + strings.Repeat("a", 64) + ".example": "",
		"https://a.example/" + strings.Repeat("x", 2048):  "",
	} {
		p, err := proto.ParseRedirectPrefix(s)
		if (err == nil) != (want != "") || err == nil && p.String() != want {
			t.Errorf("%q: %q, %v", s, p, err)
		}
	}
}

// FuzzRedirectPrefix: what is read and written is read alike, and allows itself.
func FuzzRedirectPrefix(f *testing.F) {
	f.Add("https://a.example/match/", "/x?y=%41")
	f.Add("https://a.example", "?{id}")
	f.Fuzz(func(t *testing.T, s, more string) {
		p, err := proto.ParseRedirectPrefix(s)
		if err != nil {
			return
		}
		again, err := proto.ParseRedirectPrefix(p.String())
		if err != nil || again != p {
			t.Fatalf("%q: %q, then %q, %v", s, p, again, err)
		}
		if len(s) < proto.RedirectBytesMax && (!p.Allows(p.String()) || !p.Allows(p.String()+"/")) {
			t.Fatalf("%q does not allow itself", p)
		}
		if p.Allows(p.String()+more) && more != "" && more[0] != '/' && more[0] != '?' {
			t.Fatalf("%q allows itself with %q behind", p, more)
		}
	})
}
