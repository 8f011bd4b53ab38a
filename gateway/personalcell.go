package gateway

import (
	"net/netip"
	"strings"

	"kith/proto"
)

// PersonalCell names the personal data that one value of a client's file looks
// like, "" if none: an e-mail address anywhere in it, or as a whole a telephone
// number, a payment card's or bank account's number, or an IP address. Files of
// customers hold such things where hashes are wanted, so the rules are wider than
// those for events; a number without any sign of what it is passes.
func PersonalCell(s string) string {
	s = strings.TrimSpace(s)
	if kind := findPersonal(s); kind != noPersonal {
		return personalNames[kind]
	}
	switch {
	case len(s) < 7 || len(s) > 64: // longer than any of what follows
		return ""
	}
	if _, err := netip.ParseAddr(s); err == nil {
		return "an IP address"
	}
	switch digits, plain := digitsOf(s); {
	case plain && strings.Count(s, ".") != 1 && cardNumber(digits): // one point is a fraction's
		return "a payment card's number"
	case plain && telephone(s, digits):
		return "a telephone number"
	case iban(s):
		return "a bank account's number"
	}
	return ""
}

// digitsOf is the digits of s; plain if there is nothing else but what people
// write between the digits of long numbers.
func digitsOf(s string) (digits string, plain bool) {
	b := make([]byte, 0, 64)
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c >= '0' && c <= '9':
			b = append(b, c)
		case c == '+' && i == 0, c == ' ', c == '-', c == '(', c == ')', c == '/', c == '.':
		default:
			return "", false
		}
	}
	return string(b), true
}

// cardNumber reports whether digits are a card's: its length, its first digit and
// its check digit (Luhn) are.
func cardNumber(digits string) bool {
	if len(digits) < 13 || len(digits) > 19 || digits[0] < '2' || digits[0] > '6' {
		return false
	}
	sum := 0
	for i := range len(digits) {
		d := int(digits[len(digits)-1-i] - '0')
		if i%2 == 1 {
			if d *= 2; d > 9 {
				d -= 9
			}
		}
		sum += d
	}
	return sum%10 == 0
}

// telephone reports whether s is written as telephone numbers are: with + or 00
// and a country, or with a 0 or an area in parentheses and some gaps.
func telephone(s, digits string) bool {
	n := len(digits)
	switch {
	case s[0] == '+':
		return n >= 7 && n <= 15
	case strings.HasPrefix(s, "00") && len(s) > 2 && s[2] != '0':
		return n >= 10 && n <= 17
	case s[0] == '0' || s[0] == '(':
		return n >= 9 && n <= 12 && strings.ContainsAny(s, " -/()") && strings.Count(s, ".") == 0
	}
	return false
}

// iban reports whether s is an international bank account number, whose check
// digits are right.
func iban(s string) bool {
	s = strings.ReplaceAll(s, " ", "")
	if len(s) < 15 || len(s) > 34 || !upper(s[0]) || !upper(s[1]) {
		return false
	}
	rest := 0
	for i := range len(s) {
		switch c := s[(i+4)%len(s)]; {
		case c >= '0' && c <= '9':
			rest = (rest*10 + int(c-'0')) % 97
		case upper(c):
			rest = (rest*100 + int(c-'A') + 10) % 97
		default:
			return false
		}
	}
	return rest == 1
}

func upper(c byte) bool { return c >= 'A' && c <= 'Z' }

// personalIdentity names the personal data that an identity looks like. An
// account of a few digits only is a telephone's or customer's number, no hash.
// What is longer than any identity is not looked at: it is refused as none.
func personalIdentity(s string) string {
	if len(s) > proto.IdentityBytesMax+proto.NameBytesMax {
		return ""
	}
	kind, value, ok := strings.Cut(s, ":")
	if !ok {
		return PersonalCell(s)
	}
	if what := PersonalCell(value); what != "" {
		return what
	}
	if digits, plain := digitsOf(value); kind == "account" && plain && len(digits) >= 5 && len(digits) <= 15 {
		return "a number of a person"
	}
	return ""
}
