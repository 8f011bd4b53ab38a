package proto

import "strings"

// RedirectBytesMax bounds an address that a browser is sent to.
const RedirectBytesMax = 2048

// RedirectMacro stands, in the query of such an address, for who the browser is.
const RedirectMacro = "{id}"

// RedirectPrefix is where browsers may be sent: https, one host, and the
// beginning of a path, as in "https://sync.example.com/match".
type RedirectPrefix struct {
	host string
	path string // empty, or with a slash first and none last
}

// ParseRedirectPrefix reads a prefix: https in lower case, a host of lower-case
// letters, digits, hyphens and dots whose last label begins with a letter, no port
// or user, and perhaps a path of letters, digits and - _ . ~ = , + without empty
// segments, "." and "..".
func ParseRedirectPrefix(s string) (RedirectPrefix, error) {
	rest, ok := strings.CutPrefix(s, "https://")
	host, path := rest, ""
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		host, path = rest[:i], rest[i:]
	}
	if !ok || len(s) > RedirectBytesMax || !plainHost(host) || !plainPath(path) {
		return RedirectPrefix{}, Errorf(CodeInvalid, "%q is no address to send browsers to: write https://host or https://host/path, in lower case, without port, query and fragment", clip(s))
	}
	return RedirectPrefix{host, strings.TrimSuffix(path, "/")}, nil
}

// Allows reports whether an address lies under the prefix: the same scheme and
// host, byte by byte, and a path that is the prefix's or goes on behind it with
// a slash. All that browsers and servers might read in different ways is
// refused: other ports, users, fragments, backslashes, characters beyond ASCII,
// control characters, escapes in the path, escaped control characters in the
// query, and braces but for RedirectMacro in the query.
func (p RedirectPrefix) Allows(address string) bool {
	rest, ok := strings.CutPrefix(address, "https://"+p.host)
	if !ok || len(address) > RedirectBytesMax {
		return false
	}
	path, query, _ := strings.Cut(rest, "?")
	if !plainPath(path) || !plainQuery(query) {
		return false
	}
	below, ok := strings.CutPrefix(path, p.path)
	return ok && (below == "" || below[0] == '/')
}

func (p RedirectPrefix) String() string { return "https://" + p.host + p.path }

// plainHost reports whether s is a name in the bytes in which browsers keep it.
// A last label that begins with a digit could end an address in numbers.
func plainHost(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	last := ""
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return false
		}
		last = label
	}
	return strings.ContainsAny(last[:1], "abcdefghijklmnopqrstuvwxyz")
}

// plainPath reports whether every reader takes s for the same path: it is empty
// or begins with a slash.
func plainPath(s string) bool {
	if s == "" {
		return true
	}
	if s[0] != '/' {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; c != '/' && !plainByte(c) && c != '=' && c != ',' && c != '+' {
			return false
		}
	}
	return !strings.Contains(s, "//") && !strings.Contains(s+"/", "/./") && !strings.Contains(s+"/", "/../")
}

// plainByte reports whether c is unreserved (RFC 3986, 2.3).
func plainByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.' || c == '~'
}

// plainQuery reports whether s is a query of visible ASCII without what readers
// differ about; escapes are whole and hide no control character.
func plainQuery(s string) bool {
	for s = strings.ReplaceAll(s, RedirectMacro, "x"); s != ""; { // x: no part of an escape
		c := s[0]
		if c <= ' ' || c >= 0x7f || strings.IndexByte("\"#<>@\\^`{|}", c) >= 0 {
			return false
		}
		if c != '%' {
			s = s[1:]
			continue
		}
		if len(s) < 3 {
			return false
		}
		high, low := hexDigit(s[1]), hexDigit(s[2])
		if high < 2 || low < 0 || high == 7 && low == 15 {
			return false
		}
		s = s[3:]
	}
	return true
}

// hexDigit is the value of a hexadecimal digit, -1 if c is none.
func hexDigit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}
