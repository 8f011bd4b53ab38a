package gateway

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/publicsuffix"
)

// personalKind says what kind of personal data a text holds.
type personalKind uint8

const (
	noPersonal personalKind = iota
	personalEmail
	personalPhone
	personalCard
	personalBank
	personalNational // a number that a state or an insurance gives to a person
	personalSecret   // a password, key, token or session, by which others could act for a person
	personalAddress  // of the internet
	personalKinds    // how many there are
)

// personalLabels are the kinds as counters name them.
var personalLabels = [personalKinds]string{"none", "email", "phone", "card", "bank", "national_id", "secret", "ip"}

// personalNames are the kinds as messages name them.
var personalNames = [personalKinds]string{
	"nothing personal", "an e-mail address", "a telephone number", "a payment card's number", "a bank account's number",
	"a national id or tax number", "a password, token or session", "an IP address",
}

// Classes of the bytes at which the scan of a text stops.
const (
	plainByte = iota
	digitByte
	atByte      // @
	percentByte // %
	openByte    // ( or [
	equalByte   // =
	secretByte  // J, K and _: of tokens
)

var byteClasses = func() (t [256]uint8) {
	for c := '0'; c <= '9'; c++ {
		t[c] = digitByte
	}
	t['@'], t['%'], t['('], t['['], t['='], t['J'], t['K'], t['_'] = atByte, percentByte, openByte, openByte, equalByte, secretByte, secretByte, secretByte
	return t
}()

// veilsMax is how many times a text is unveiled: a url in a url in a url.
const veilsMax = 4

// findPersonal is the first kind of personal data that s holds, plain, percent-encoded
// once or more, or with typographic spaces and dashes, wide letters or digits of other
// scripts.
func findPersonal(s string) personalKind {
	kind := plainPersonal(s)
	if kind != noPersonal || !veiled(s) {
		return kind
	}
	return veiledPersonal(s)
}

// veilBytes are those that unveil looks at: % and the first of characters that it
// writes plainly.
var veilBytes = func() (t [256]bool) {
	for _, c := range []byte{'%', 0xc2, 0xd9, 0xdb, 0xe0, 0xe2, 0xe3, 0xef, 0xf0} {
		t[c] = true
	}
	return t
}()

func veiled(s string) bool {
	for i := range len(s) {
		if veilBytes[s[i]] {
			return true
		}
	}
	return false
}

// veiledPersonal is findPersonal of what s stands for. Of up to 1 KiB it allocates
// nothing.
func veiledPersonal(s string) personalKind {
	var room [1 << 10]byte
	b := append(room[:0], s...)
	for range veilsMax {
		n := len(b)
		if b = unveil(b); len(b) == n {
			break
		}
		if kind := plainPersonal(alias(b)); kind != noPersonal {
			return kind
		}
	}
	return noPersonal
}

// unveil decodes percent escapes in place, once, and puts plain spaces, hyphens,
// letters and digits where other forms of them are: what changes gets shorter. What
// nobody sees goes.
func unveil(b []byte) []byte {
	n := 0
	for i := 0; i < len(b); {
		c, size := b[i], 1
		switch rest := b[i:]; {
		case c == '%' && len(rest) > 2 && hexByte(rest[1]) && hexByte(rest[2]):
			c, size = nibble(rest[1])<<4|nibble(rest[2]), 3
		case c >= utf8.RuneSelf && veilBytes[c]:
			if plain, seen, size := plainForm(rest); size > 0 {
				if seen {
					b[n] = plain
					n++
				}
				i += size
				continue
			}
		}
		b[n] = c
		n, i = n+1, i+size
	}
	return b[:n]
}

// plainForm is the ASCII that stands for a character at the beginning of b that is
// none, unless it is one that nobody sees, and the character's bytes, 0 if there is no
// such form.
func plainForm(b []byte) (plain byte, seen bool, size int) {
	r, size := utf8.DecodeRune(b)
	switch {
	case r == 0xa0, r >= 0x2000 && r <= 0x200a, r == 0x202f, r == 0x205f, r == 0x3000:
		return ' ', true, size
	case r >= 0x2010 && r <= 0x2015, r == 0x2212:
		return '-', true, size
	case r == 0xad, r >= 0x200b && r <= 0x200f, r >= 0x202a && r <= 0x202e, r >= 0x2060 && r <= 0x2069, r == 0xfeff:
		return 0, false, size
	case r >= 0xff01 && r <= 0xff5e: // wide forms
		return byte(r - 0xff01 + '!'), true, size
	case r == 0xfe6b:
		return '@', true, size
	case r >= 0x1d7ce && r <= 0x1d7ff: // five alphabets of mathematics
		return byte('0' + (r-0x1d7ce)%10), true, size
	case unicode.Is(unicode.Nd, r): // ten each, the zero first
		zero := r
		for unicode.Is(unicode.Nd, zero-1) && r-zero < 9 {
			zero--
		}
		return byte('0' + r - zero), true, size
	}
	return 0, false, 0
}

func nibble(c byte) byte {
	if digit(c) {
		return c - '0'
	}
	return c | 0x20 - 'a' + 10
}

// plainPersonal passes over the bytes once, stops at those that could be part of
// personal data, and allocates nothing.
func plainPersonal(s string) personalKind {
	for i := 0; i < len(s); {
		class := byteClasses[s[i]]
		if class == plainByte {
			i++
			continue
		}
		kind, next := personalNoMatch(s, i, class)
		if kind != noPersonal {
			return kind
		}
		i = next
	}
	return noPersonal
}

// personalNoMatch looks at what stands around i, and gives where to go on if
// that is nothing.
func personalNoMatch(s string, i int, class uint8) (personalKind, int) {
	switch class {
	case digitByte:
		return personalNumber(s, i)
	case atByte:
		if mailbox(s[:i], s[i+1:]) {
			return personalEmail, i
		}
		if userInfo(s, i) {
			return personalSecret, i
		}
	case percentByte:
		end := escaped(s, i, "40")
		if end > 0 && mailbox(s[:i], s[end:]) {
			return personalEmail, i
		}
		if end = escapeEnd(s, i); end > 0 { // the digits of an escape are none of a number
			return noPersonal, end
		}
	case openByte:
		if spelledAt(s, i) {
			return personalEmail, i
		}
	case equalByte:
		if name := lastName(s[:i]); len(name) >= 2 && len(name) <= 20 {
			if kind := namedPersonal(name, firstValue(s[i+1:min(len(s), i+1+valueReadMax)])); kind != noPersonal {
				return kind, i
			}
		}
	case secretByte:
		if tokenAt(s, i) {
			return personalSecret, i
		}
	}
	return noPersonal, i + 1
}

// personal reports whether s holds what looks like an e-mail address.
func personal(s string) bool {
	for i := 0; i < len(s); i++ {
		switch c := byteClasses[s[i]]; c {
		case atByte, percentByte, openByte:
			if kind, _ := personalNoMatch(s, i, c); kind == personalEmail {
				return true
			}
		}
	}
	return false
}

// escaped gives the end of the byte hex at i, percent-encoded once or more, 0 if
// something else is there.
func escaped(s string, i int, hex string) int {
	if i >= len(s) || s[i] != '%' {
		return 0
	}
	for i++; strings.HasPrefix(s[i:], "25"); {
		i += 2
	}
	if len(s)-i >= 2 && strings.EqualFold(s[i:i+2], hex) {
		return i + 2
	}
	return 0
}

// escapeEnd gives the end of any escape at i, 0 if there is none.
func escapeEnd(s string, i int) int {
	for i++; strings.HasPrefix(s[i:], "25"); {
		i += 2
	}
	if len(s)-i >= 2 && hexByte(s[i]) && hexByte(s[i+1]) {
		return i + 2
	}
	return 0
}

func hexByte(c byte) bool { return digit(c) || c|0x20 >= 'a' && c|0x20 <= 'f' }

func digit(c byte) bool { return c-'0' <= 9 }

func letter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }

// mailbox reports whether a name ends before and a domain begins after an at
// sign.
func mailbox(before, after string) bool {
	n := len(before)
	for n > 0 && nameByte(before[n-1]) {
		n--
	}
	name := before[n:]
	if name == "" || n > 0 && before[n-1] == '@' { // @user@server is a social handle
		return false
	}
	return domain(after) && (name != "git" || !strings.Contains(after, ":"))
}

// domain reports whether s begins with a host's name under a known top level;
// its points may be percent-encoded, or spelled.
func domain(s string) bool {
	var host [128]byte
	n, end := 0, 0
	for end < len(s) && n < len(host) {
		c, next := s[end], end+1
		if c == '%' {
			if next = escaped(s, end, "2E"); next > 0 {
				c = '.'
			} else if next = highEscape(s, end); next > 0 {
				c = 0x80
			} else {
				break
			}
		} else if dot := spelledDot(s, end); dot > 0 {
			c, next = '.', dot
		}
		if !nameByte(c) || c == '_' || c == '+' {
			break
		}
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		host[n] = c
		n, end = n+1, next
	}
	for n > 0 && (host[n-1] == '.' || host[n-1] == '-') {
		n--
	}
	name := alias(host[:n])
	dot := strings.LastIndexByte(name, '.')
	return dot > 0 && (topLevel(name, name[dot+1:]) || hostBefore(name, dot)) && !scaled(name)
}

// hostBefore reports whether name, whose last point is at last, begins with a host and
// goes on with what was written behind it without a space: a quote, a letter of another
// script, a hyphen, the next sentence.
func hostBefore(name string, last int) bool {
	dot := strings.IndexByte(name, '.')
	if numbered(name, dot) {
		return false
	}
	for dot > 0 && dot <= last {
		label, more, _ := strings.Cut(name[dot+1:], ".")
		end := foreignAt(label)
		if dot == last {
			if hyphen := strings.IndexByte(label[:end], '-'); hyphen >= 0 {
				end = hyphen
			}
		}
		if (dot < last || end < len(label)) && topLevel(name, label[:end]) {
			return true
		}
		if more == "" {
			break
		}
		dot += 1 + len(label)
	}
	return false
}

// numbered reports whether a name is rather a version: digits are on both sides of its
// first point, at dot.
func numbered(name string, dot int) bool {
	return dot > 0 && dot+1 < len(name) && digit(name[dot-1]) && digit(name[dot+1])
}

// foreignAt is where the first character of a label is that does not go on a word in
// Latin, Greek or Cyrillic letters; of a label that begins with one, the first that is
// no letter of any script.
func foreignAt(label string) int {
	for i, r := range label {
		if r < utf8.RuneSelf || wordRune(r) {
			continue
		}
		if i > 0 {
			return i
		}
		for i, r := range label {
			if !unicode.IsLetter(r) && !unicode.IsMark(r) {
				return i
			}
		}
		break
	}
	return len(label)
}

// highEscape gives the end of an escaped byte above ASCII at i, 0 if none.
func highEscape(s string, i int) int {
	end := escapeEnd(s, i)
	if end > 0 && s[end-2] >= '8' {
		return end
	}
	return 0
}

// topLevel reports whether mail may go to a host under top.
func topLevel(host, top string) bool {
	switch top {
	case "example", "test", "local", "internal", "lan", "corp":
		return true
	}
	if len(top) < 2 {
		return false
	}
	if top[0] >= utf8.RuneSelf {
		return foreignTop(top)
	}
	_, known := publicsuffix.PublicSuffix(strings.Clone(top)) // so that the caller's bytes stay on the stack
	return known
}

// foreignTops are the top levels in other scripts than Latin under which most names are
// (IANA's root zone database); the list of public suffixes has them in another form.
var foreignTops = func() map[string]bool {
	tops := map[string]bool{}
	for _, top := range strings.Fields(`中国 中國 香港 台湾 台灣 澳門 新加坡 公司 网络 在线 网址 网店 中文网 商城 集团 组织机构 政务 コム みんな 한국 닷컴 닷넷
		рф бел укр срб мкд қаз мон ею бг рус москва онлайн сайт дети орг ком ею ελ ευ հայ გე ישראל קום
		السعودية امارات مصر ایران ايران الاردن فلسطين قطر المغرب تونس عمان سورية سودان عراق الجزائر پاکستان مليسيا شبكة موقع كوم بازار
		भारत ভারত বাংলা ਭਾਰਤ ભારત இந்தியா இலங்கை சிங்கப்பூர் భారత్ ಭಾರತ ഭാരതം ලංකා ไทย ລາວ नेट संगठन कॉम`) {
		tops[top] = true
	}
	return tops
}()

// foreignTop reports whether top is a top level in another script than Latin.
func foreignTop(top string) bool { return foreignTops[strings.ToLower(top)] }

// scaled reports whether host is the scale of a picture, as in x@2x.png.
func scaled(host string) bool {
	n := 0
	for n < len(host) && (digit(host[n]) || host[n] == '.') {
		n++
	}
	return n > 0 && strings.HasPrefix(host[n:], "x.")
}

// spelledAt reports whether (at) or [at] at i stands in an address.
func spelledAt(s string, i int) bool {
	if len(s)-i < 5 || s[i+1]|0x20 != 'a' || s[i+2]|0x20 != 't' || s[i+3] != ')' && s[i+3] != ']' {
		return false
	}
	return mailbox(strings.TrimRight(s[:i], " "), strings.TrimLeft(s[i+4:], " "))
}

// spelledDot gives the end of (dot) or [dot] at i, of (punkt) too, with the spaces
// around it, 0 if there is none.
func spelledDot(s string, i int) int {
	rest := s[i:]
	if rest[0] != ' ' && rest[0] != '(' && rest[0] != '[' {
		return 0
	}
	rest = strings.TrimLeft(rest, " ")
	for _, word := range [...]string{"dot", "punkt"} {
		n := len(word) + 2
		if len(rest) < n || rest[0] != '(' && rest[0] != '[' || rest[n-1] != ')' && rest[n-1] != ']' || !strings.EqualFold(rest[1:n-1], word) {
			continue
		}
		return len(s) - len(strings.TrimLeft(rest[n:], " "))
	}
	return 0
}

// nameByte reports whether c may stand in the name of a mailbox.
func nameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_' || c == '+' || c >= 0x80
}
