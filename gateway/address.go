package gateway

import (
	"net/url"
	"strings"
)

// Bounds of what is kept of addresses.
const (
	hostBytesMax    = 253
	sectionBytesMax = 128
)

// homeSection is the section of a site's first page.
const homeSection = "home"

// address is a url in parts; host is in lower case, without user and port.
type address struct{ host, path, query string }

// splitAddress reads a url, or one that begins with its path. What is neither has
// no parts.
func splitAddress(s string) (a address) {
	rest := s
	if scheme, after, ok := strings.Cut(s, "://"); ok && isScheme(scheme) {
		end := strings.IndexAny(after, "/?#")
		if end < 0 {
			end = len(after)
		}
		if a.host = hostOf(after[:end]); a.host == "" {
			return address{}
		}
		rest = after[end:]
	} else if !strings.HasPrefix(s, "/") || strings.HasPrefix(s, "//") {
		return address{}
	}
	rest, _, _ = strings.Cut(rest, "#")
	a.path, a.query, _ = strings.Cut(rest, "?")
	return a
}

func isScheme(s string) bool {
	for i := range len(s) {
		if c := s[i]; !letter(c) && !digit(c) && c != '-' && c != '+' && c != '.' {
			return false
		}
	}
	return s != ""
}

// hostOf is the host of the part of a url between scheme and path, empty if it is
// none.
func hostOf(s string) string {
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		s = s[i+1:]
	}
	if i := strings.LastIndexByte(s, ':'); i >= 0 && strings.Trim(s[i+1:], "0123456789") == "" {
		s = s[:i]
	}
	s = strings.ToLower(strings.TrimSuffix(s, "."))
	if len(s) > hostBytesMax {
		return ""
	}
	for i := range len(s) {
		if c := s[i]; !letter(c) && !digit(c) && c < 0x80 && !strings.ContainsRune("-._[]:", rune(c)) {
			return ""
		}
	}
	return s
}

// sectionOf is the first part of a url's path, "home" if there is none; empty if
// it is no url or the part is no section's name.
func sectionOf(raw string) string {
	a := splitAddress(raw)
	if a.host == "" && a.path == "" {
		return ""
	}
	section, _, _ := strings.Cut(strings.TrimLeft(a.path, "/"), "/")
	if strings.IndexByte(section, '%') >= 0 {
		if plain, err := url.PathUnescape(section); err == nil && legible(plain) {
			section = plain
		}
	}
	section, _, _ = strings.Cut(section, ";") // parameters of the path, such as a session
	switch {
	case section == "":
		return homeSection
	case len(section) > sectionBytesMax:
		return ""
	}
	return section
}
