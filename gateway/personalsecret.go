package gateway

import (
	"net/netip"
	"strings"
)

// plainName is a name of up to 20 bytes in lower case without separators, in b.
func plainName(b *[20]byte, name string) string {
	n := 0
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'A' && c <= 'Z':
			b[n] = c | 0x20
			n++
		case c != '-' && c != '_' && c != '.':
			b[n] = c
			n++
		}
	}
	return alias(b[:n])
}

// secretInURLs reports whether a name is of something secret in a url, and of
// something usual as a property: a session's number, a kind of pass.
func secretInURLs(name string) bool {
	if len(name) > 20 {
		return false
	}
	var b [20]byte
	switch plainName(&b, name) {
	case "session", "sessionid", "sessid", "sid", "pass":
		return true
	}
	return false
}

// namedPersonal is what a value must be by the name that it is given in a query
// or a property.
func namedPersonal(name, value string) personalKind {
	if len(name) < 2 || len(name) > 20 || len(value) < 4 {
		return noPersonal
	}
	var b [20]byte
	switch plainName(&b, name) {
	case "password", "passwd", "pwd", "pass", "passwort", "kennwort", "passphrase":
		return personalSecret
	case "token", "accesstoken", "idtoken", "refreshtoken", "authtoken", "resettoken", "apikey", "secret", "clientsecret", "accesskey", "jwt", "bearer",
		"authorization", "auth", "session", "sessionid", "sessid", "sid", "jsessionid", "phpsessid", "aspsessionid":
		if secretValue(value) {
			return personalSecret
		}
	case "tel", "phone", "phonenumber", "telephone", "telefon", "mobile", "mobil", "handy", "msisdn", "whatsapp":
		if n := countDigits(value); n >= 7 && n <= 15 && n*3 >= len(value)*2 {
			return personalPhone
		}
	case "ssn", "socialsecurity", "taxid", "steuerid", "bsn", "pesel", "nino":
		if countDigits(value) >= 6 {
			return personalNational
		}
	case "ip", "ipaddress", "ipaddr", "ipv4", "ipv6", "clientip", "userip", "visitorip", "remoteip", "remoteaddr", "realip", "xrealip", "xforwardedfor":
		if wholeAddress(value) {
			return personalAddress
		}
	}
	return noPersonal
}

// wholeAddress reports whether s is an IP address, or the first of several, with a port
// or without: not one that was cut, nor one that every host has.
func wholeAddress(s string) bool {
	s, _, _ = strings.Cut(s, ",")
	text := strings.Clone(strings.TrimSpace(s)) // so that the caller's bytes stay on the stack
	a, err := netip.ParseAddr(text)
	if err != nil {
		p, err := netip.ParseAddrPort(text)
		if err != nil {
			return false
		}
		a = p.Addr()
	}
	a = a.Unmap().WithZone("")
	return !a.IsLoopback() && !a.IsUnspecified() && cutAddress(a).Addr() != a
}

// secretValue reports whether s is as long and as mixed as what a machine makes.
func secretValue(s string) bool {
	return len(s) >= 12 && countDigits(s) > 0 || len(s) >= 24
}

func countDigits(s string) int {
	n := 0
	for i := range len(s) {
		if digit(s[i]) {
			n++
		}
	}
	return n
}

// lastName is the name at the end of s, before an equals sign; of user[password]
// what is in the brackets.
func lastName(s string) string {
	s = strings.TrimSuffix(s, "]")
	i := len(s)
	for i > 0 && len(s)-i <= 20 && (letter(s[i-1]) || digit(s[i-1]) || s[i-1] == '_' || s[i-1] == '-') {
		i--
	}
	return s[i:]
}

// innerName is the last name in one of what was nested, as in user.password, user[tel]
// or billing/phone, or the last word of one, as in billing_phone and billingPhone, if
// that is a telephone's; empty if there is none.
func innerName(name string) string {
	name = strings.TrimSuffix(name, "]")
	for i := len(name) - 1; i >= 0; i-- {
		if c := name[i]; c != '.' && c != '[' && c != ':' && c != '/' {
			continue
		}
		switch inner := name[i+1:]; {
		case strings.EqualFold(inner, "token"), strings.EqualFold(inner, "secret"), strings.EqualFold(inner, "auth"): // of designs and games too
			return ""
		default:
			return inner
		}
	}
	start := len(name)
	for start > 0 && name[start-1] >= 'a' && name[start-1] <= 'z' {
		start--
	}
	if start > 0 && upper(name[start-1]) {
		start--
	}
	if start > 0 && strings.EqualFold(name[start:], "number") {
		return innerName(strings.TrimRight(name[:start], "_-"))
	}
	switch word := name[start:]; {
	case start == 0:
	case strings.EqualFold(word, "phone"), strings.EqualFold(word, "telephone"), strings.EqualFold(word, "telefon"), strings.EqualFold(word, "msisdn"):
		return word
	}
	return ""
}

// innerPersonal is namedPersonal by the last name of a nested one. Amounts stand under
// such names as well (revenue.mobile), so that a telephone number must have more digits.
func innerPersonal(name, value string) personalKind {
	kind := namedPersonal(name, value)
	if kind == personalPhone && countDigits(value) < 9 {
		return noPersonal
	}
	return kind
}

// valueReadMax is how much of a value is looked at.
const valueReadMax = 256

// userInfoMax is how far before an @ the scheme of a url is looked for.
const userInfoMax = 96

// firstValue is the value at the beginning of s, behind an equals sign.
func firstValue(s string) string {
	if i := strings.IndexAny(s, "&;# "); i >= 0 {
		return s[:i]
	}
	return s
}

// tokenAt reports whether a token by whose form one knows it has its J, K or _ at i.
func tokenAt(s string, i int) bool {
	if s[i] == 'J' {
		return i >= 2 && s[i-2:i] == "ey" && jwt(s[i-2:])
	}
	head, tail := s[:i], s[i+1:]
	switch {
	case s[i] == 'K': // AKIA and 16 capitals and digits
		return i >= 1 && s[i-1] == 'A' && !wordBefore(s, i-1) && strings.HasPrefix(tail, "IA") && accessKey(tail[2:])
	case i >= 3 && head[i-3] == 'g' && head[i-2] == 'h': // ghp_, gho_, ghs_ and the like
		return secretRun(tail, 30)
	case strings.HasSuffix(head, "sk_live"), strings.HasSuffix(head, "rk_live"), strings.HasSuffix(head, "github_pat"):
		return secretRun(tail, 16)
	}
	return false
}

// accessKey reports whether s begins with the 16 capitals and digits of a key, and
// nothing of a word behind them.
func accessKey(s string) bool {
	for i := range 16 {
		if i == len(s) || !upper(s[i]) && !digit(s[i]) {
			return false
		}
	}
	return !wordAt(s, 16)
}

// Bounds of the first two parts of a token in base64: a text may hold the beginning of
// one at every third byte.
const (
	tokenHeadMax = 1 << 10
	tokenBodyMax = 16 << 10
)

// jwt reports whether s begins with two parts in base64, each of an object, and
// the point behind them.
func jwt(s string) bool {
	n := strings.IndexByte(s[:min(len(s), tokenHeadMax+1)], '.')
	if n < 10 || !strings.HasPrefix(s[n+1:], "eyJ") {
		return false
	}
	rest := s[n+1:]
	return strings.IndexByte(rest[:min(len(rest), tokenBodyMax+1)], '.') > 4
}

// secretRun reports whether s begins with n letters and digits.
func secretRun(s string, n int) bool {
	if len(s) < n {
		return false
	}
	for i := range n {
		if !letter(s[i]) && !digit(s[i]) {
			return false
		}
	}
	return true
}

// userInfo reports whether the at sign at i ends a user and password of a url.
func userInfo(s string, i int) bool {
	if i == 0 || s[i-1] == '@' {
		return false
	}
	s = s[max(0, i-userInfoMax):i]
	start := strings.LastIndex(s, "://")
	if start < 0 {
		return false
	}
	i = len(s)
	_, password, ok := strings.Cut(s[start+3:i], ":")
	return ok && password != "" && !strings.ContainsAny(s[start+3:i], "/?#")
}
