package gateway

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// plusDigitsMin is from how many digits on a plus sign right behind a letter of a script
// without spaces is a telephone number's, and no space in a query.
const plusDigitsMin = 11

// numberDigitsMax is more than any number looked for has.
const numberDigitsMax = 19

// numeral is digits with what people write between them, plain or
// percent-encoded.
type numeral struct {
	digits [numberDigitsMax + 1]byte
	n      int // digits, more than numberDigitsMax if there are too many
	groups [numberDigitsMax + 1]uint8
	parts  int
	plus   bool // + before it
	paren  bool
	seps   [128]bool // ASCII that stood between groups
}

// text is the digits.
func (x *numeral) text() string { return alias(x.digits[:x.n]) }

// shape reports whether the groups have these lengths.
func (x *numeral) shape(lengths ...uint8) bool {
	return x.parts == len(lengths) && string(x.groups[:x.parts]) == string(lengths)
}

// personalNumber looks at the digits that begin at i, and what belongs to
// them, and gives where to go on.
func personalNumber(s string, i int) (personalKind, int) {
	if wordBefore(s, i) && !(i >= 3 && s[i-3] == '%') && !(i >= 5 && s[i-5:i-2] == "%25") {
		return numberInWord(s, i)
	}
	if end := shortNumber(s, i); end > 0 {
		return noPersonal, end
	}
	return longNumber(s, i)
}

// longNumber is personalNumber outside of words, for numbers of any length.
func longNumber(s string, i int) (personalKind, int) {
	var x numeral
	end := x.read(s, i, numberDigitsMax)
	if wordAt(s, end) || x.n > numberDigitsMax || x.n < 6 {
		if x.amid() {
			return numberAmid(s, i)
		}
		return noPersonal, wordEnd(s, end)
	}
	x.before(s[:i])
	kind := x.kind(s, i, end)
	switch {
	case kind == noPersonal && x.amid():
		return numberAmid(s, i)
	case kind != noPersonal && inUUID(s, i, end):
		return noPersonal, end
	}
	return kind, end
}

// shortNumber gives the end of the digits at i if they are too few for anything
// looked for and surely no others belong to them, as most are; else 0.
func shortNumber(s string, i int) int {
	end := i
	for end < len(s) && digit(s[end]) {
		end++
	}
	switch {
	case end-i >= 6:
		return 0
	case end == len(s):
		return end
	}
	if _, next := separator(s, end); next == 0 {
		return wordEnd(s, end)
	} else if next < len(s) && letter(s[next]) {
		return end
	}
	return 0
}

// wordByte reports whether c, which is ASCII, goes on a word.
func wordByte(c byte) bool { return letter(c) || digit(c) || c == '_' }

// wordRune is wordByte of other characters. People write numbers right beside quotes,
// and beside letters of scripts that have no spaces between words; what belongs to a
// code or a unit is Latin, Greek or Cyrillic, or a digit that unveil writes plainly.
func wordRune(r rune) bool {
	switch {
	case r == 'º' || r == 'ª': // as in nº
		return false
	case r >= 0x300 && r <= 0x36f: // marks on letters
		return true
	}
	return unicode.In(r, unicode.Latin, unicode.Greek, unicode.Cyrillic, unicode.Nd)
}

// wordAt reports whether a character that goes on a word begins at i.
func wordAt(s string, i int) bool {
	if i >= len(s) {
		return false
	}
	if s[i] < utf8.RuneSelf {
		return wordByte(s[i])
	}
	r, _ := utf8.DecodeRuneInString(s[i:])
	return wordRune(r)
}

// wordBefore reports whether a character that goes on a word ends at i.
func wordBefore(s string, i int) bool {
	if i <= 0 {
		return false
	}
	if s[i-1] < utf8.RuneSelf {
		return wordByte(s[i-1])
	}
	r, _ := utf8.DecodeLastRuneInString(s[:i])
	return wordRune(r)
}

func wordEnd(s string, i int) int {
	for i < len(s) {
		size := 1
		if c := s[i]; c < utf8.RuneSelf {
			if !wordByte(c) {
				break
			}
		} else {
			var r rune
			if r, size = utf8.DecodeRuneInString(s[i:]); !wordRune(r) {
				break
			}
		}
		i += size
	}
	return i
}

// read takes up to partsMax groups of digits, and separators, from i on, and gives
// their end.
func (x *numeral) read(s string, i, partsMax int) int {
	end := i
	var pending [16]byte
	gap := 0
	for i < len(s) {
		if c := s[i]; digit(c) {
			for gap > 0 { // what stands behind the last digit does not count
				gap--
				x.seps[pending[gap&15]] = true
			}
			if x.n > numberDigitsMax {
				return wordEnd(s, i)
			}
			if i != end || x.parts == 0 {
				x.parts++
			}
			x.digits[min(x.n, numberDigitsMax)] = c
			x.groups[min(x.parts-1, numberDigitsMax)]++
			x.n++
			i++
			end = i
			continue
		}
		c, next := separator(s, i)
		if next == 0 || i-end > 9 || x.parts == partsMax {
			break
		}
		pending[gap&15], gap = c, gap+1
		i = next
	}
	return end
}

// separator is what people write between digits, and its end; 0 if it is none.
func separator(s string, i int) (byte, int) {
	switch s[i] {
	case ' ', '-', '.', '/', '(', ')':
		return s[i], i + 1
	case '+': // a space in a query
		return ' ', i + 1
	case '%':
		for _, e := range [...]struct {
			hex string
			c   byte
		}{{"20", ' '}, {"2D", '-'}, {"2F", '/'}, {"28", '('}, {"29", ')'}} {
			if end := escaped(s, i, e.hex); end > 0 {
				return e.c, end
			}
		}
	}
	return 0, 0
}

// before looks for a plus sign and a parenthesis that belong to the number.
func (x *numeral) before(s string) {
	n := len(s)
	if n >= 3 && strings.EqualFold(s[n-3:], "%28") {
		x.paren, n = true, n-3
	} else if n > 0 && s[n-1] == '(' {
		x.paren, n = true, n-1
	}
	if n > 0 && s[n-1] == '+' {
		// As a space in a query it stands behind a word.
		r, _ := utf8.DecodeLastRuneInString(s[:n-1])
		x.plus = !wordBefore(s, n-1) && (x.n >= plusDigitsMin || r < utf8.RuneSelf || !unicode.IsLetter(r))
	} else if n >= 3 && strings.EqualFold(s[n-3:n], "%2B") || n >= 5 && strings.EqualFold(s[n-5:n], "%252B") {
		x.plus = true
	}
}

// kind is what the number is.
func (x *numeral) kind(s string, start, end int) personalKind {
	d := x.text()
	switch {
	case x.card():
		return personalCard
	case x.phone() && !x.path(s, start):
		return personalPhone
	case x.shape(3, 2, 4) && x.seps['-'] && !x.seps['.'] && socialSecurity(d),
		(x.parts == 1 || x.shape(2, 3, 3, 3)) && germanTax(d),
		(x.parts == 1 || x.shape(1, 2, 2, 2, 3, 3, 2)) && frenchSecurity(d),
		x.shape(2, 2, 2) && spacedNino(s, start, end):
		return personalNational
	}
	return noPersonal
}

// card reports whether the number is a payment card's: a brand's first digits,
// their length and groups, and the check digit.
func (x *numeral) card() bool {
	n := x.n
	if n < 14 || x.seps['.'] || x.seps['/'] || x.seps['('] || x.seps['+'] || x.seps[' '] && x.seps['-'] {
		return false
	}
	if x.parts > 1 && !x.shape(4, 4, 4, 4) && !x.shape(4, 6, 5) && !x.shape(4, 6, 4) && !x.shape(4, 4, 4, 4, 3) {
		return false
	}
	d := x.text()
	first2, first4 := number(d[:2]), number(d[:4])
	brand := false
	switch {
	case d[0] == '4':
		brand = n == 16 || n == 19
	case first2 >= 51 && first2 <= 55, first4 >= 2221 && first4 <= 2720:
		brand = n == 16
	case first2 == 34 || first2 == 37:
		brand = n == 15
	case first4 == 6011, first2 == 65, first4 >= 6440 && first4 <= 6499, first4 >= 3528 && first4 <= 3589:
		brand = n == 16
	case first2 == 36 || first2 == 38 || first2 == 30 && d[2] <= '5':
		brand = n == 14
	case first2 == 62:
		brand = n == 16 || n == 19
	}
	return brand && cardNumber(d)
}

func number(s string) int {
	n := 0
	for i := range len(s) {
		n = n*10 + int(s[i]-'0')
	}
	return n
}

// path reports whether the groups are parts of a path, as /012/345/678 is.
func (x *numeral) path(s string, start int) bool {
	return x.seps['/'] && (x.parts > 2 && !x.seps[' '] && !x.seps['-'] || start > 0 && s[start-1] == '/')
}

// inUUID reports whether s[start:end] lies in a UUID: 8, 4, 4, 4 and 12 hexadecimal
// digits with hyphens between them.
func inUUID(s string, start, end int) bool {
	const size = 36
	for i := max(0, end-size); i <= start && i+size <= len(s); i++ {
		if isUUID(s[i : i+size]) {
			return true
		}
	}
	return false
}

func isUUID(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return false
			}
		case !digit(c) && (c|0x20 < 'a' || c|0x20 > 'f'):
			return false
		}
	}
	return true
}

// phone reports whether the number is written as telephone numbers are.
func (x *numeral) phone() bool {
	d, n := x.text(), x.n
	switch {
	case x.plus:
		return n >= 8 && n <= 16 && callingCode(d) && !x.decimal()
	case d[0] == '0' && d[1] == '0':
		return n >= 11 && n <= 17 && callingCode(d[2:]) && x.groups[0] >= 4 && !x.seps['.']
	case x.dated() || x.seps['.'] && (x.seps[' '] || x.seps['-'] || x.seps['/']):
		return false
	case x.northAmerican():
		return true
	case d[0] != '0' || x.parts < 2 || n < 9 || n > 12:
		return false
	}
	if x.seps['.'] || n == 10 && x.shape(2, 2, 2, 2, 2) {
		return x.shape(2, 2, 2, 2, 2)
	}
	for i := 1; i < x.parts; i++ {
		if x.groups[i] < 2 || x.groups[i] > 9 {
			return false
		}
	}
	g := x.groups[0]
	return g >= 3 && g <= 5 || g == 2 && n == 10 || x.shape(6, 5)
}

// decimal reports whether the number is one with a fraction.
func (x *numeral) decimal() bool { return x.parts == 2 && x.seps['.'] }

// dated reports whether the groups hold a date.
func (x *numeral) dated() bool {
	at := 0
	for i := range x.parts {
		if x.groups[i] == 4 {
			year := number(x.text()[at : at+4])
			if year >= 1900 && year < 2100 && (i >= 2 && x.groups[i-1] <= 2 && x.groups[i-2] <= 2 || i+2 < x.parts && x.groups[i+1] <= 2 && x.groups[i+2] <= 2) {
				return true
			}
		}
		at += int(x.groups[i])
	}
	return false
}

// northAmerican reports whether the number is 3-3-4, its area and its exchange
// being ones that may be.
func (x *numeral) northAmerican() bool {
	d := x.text()
	switch {
	case x.shape(3, 3, 4):
	case x.shape(1, 3, 3, 4) && d[0] == '1':
		d = d[1:]
	default:
		return false
	}
	return d[0] >= '2' && d[3] >= '2' && d[1] != '9' && !x.seps['/']
}

// callingCode reports whether d begins with a country's code of the telephone
// net, followed by something.
func callingCode(d string) bool {
	switch d[0] {
	case '0':
		return false
	case '1':
		return len(d) == 11 && d[1] >= '2' && d[4] >= '2'
	case '7':
		return len(d) == 11
	}
	return true
}

// socialSecurity reports whether d is a social security number of the USA.
func socialSecurity(d string) bool {
	area := d[:3]
	return len(d) == 9 && area != "000" && area != "666" && area[0] != '9' && d[3:5] != "00" && d[5:] != "0000"
}

// germanTax reports whether d is a German tax id: its check digit (ISO 7064,
// MOD 11,10) is right, and of its first ten digits one occurs twice or thrice
// and all others once at most.
func germanTax(d string) bool {
	if len(d) != 11 || d[0] == '0' {
		return false
	}
	var times [10]int
	product := 10
	for i := range 10 {
		times[d[i]-'0']++
		sum := (int(d[i]-'0') + product) % 10
		if sum == 0 {
			sum = 10
		}
		product = 2 * sum % 11
	}
	repeated := 0
	for _, n := range times {
		if n > 3 {
			return false
		}
		if n > 1 {
			repeated++
		}
	}
	return repeated == 1 && (11-product)%10 == int(d[10]-'0')
}

// frenchSecurity reports whether d is a French social security number with its
// key (NIR).
func frenchSecurity(d string) bool {
	if len(d) != 15 || d[0] != '1' && d[0] != '2' {
		return false
	}
	month := number(d[3:5])
	return (month >= 1 && month <= 12 || month >= 20 && month <= 42) && 97-number(d[:13])%97 == number(d[13:])
}

// numberInWord looks at a word with digits in it, the first of them at i, and
// gives its end.
func numberInWord(s string, i int) (personalKind, int) {
	start := i
	for i-start < 24 && wordBefore(s, start) {
		_, size := utf8.DecodeLastRuneInString(s[:start])
		start -= size
	}
	end := wordEnd(s, i)
	word := s[start:end]
	switch i - start {
	case 2:
		if nino(word) {
			return personalNational, end
		}
		if accountAt(s, start) {
			return personalBank, end
		}
	case 6:
		if fiscalCode(word) {
			return personalNational, end
		}
	}
	return noPersonal, end
}

// nino reports whether s is a British national insurance number.
func nino(s string) bool {
	if len(s) != 9 || !upper(s[0]) || !upper(s[1]) || s[8] < 'A' || s[8] > 'D' {
		return false
	}
	for i := 2; i < 8; i++ {
		if !digit(s[i]) {
			return false
		}
	}
	return ninoPrefix(s[:2])
}

func ninoPrefix(s string) bool {
	switch s {
	case "BG", "GB", "KN", "NK", "NT", "TN", "ZZ":
		return false
	}
	return upper(s[0]) && upper(s[1]) && !strings.ContainsAny(s, "DFIQUV") && s[1] != 'O'
}

// spacedNino reports whether the three pairs of digits of s[start:end] stand in
// a British national insurance number with spaces.
func spacedNino(s string, start, end int) bool {
	head, tail := s[:start], s[end:]
	for _, space := range [...]string{" ", "%20", "+"} {
		before, ok1 := strings.CutSuffix(head, space)
		after, ok2 := strings.CutPrefix(tail, space)
		if ok1 && ok2 && len(before) >= 2 && len(after) >= 1 {
			n := len(before)
			return ninoPrefix(before[n-2:]) && !wordBefore(before, n-2) &&
				after[0] >= 'A' && after[0] <= 'D' && !wordAt(after, 1)
		}
	}
	return false
}

// fiscalCode reports whether s is an Italian tax code.
func fiscalCode(s string) bool {
	if len(s) != 16 {
		return false
	}
	sum := 0
	for i := range 16 {
		c := s[i]
		if isDigit := i == 6 || i == 7 || i == 9 || i == 10 || i >= 12 && i <= 14; isDigit != digit(c) || !isDigit && !upper(c) {
			return false
		}
		v := int(c - '0')
		if upper(c) {
			v = int(c - 'A')
		}
		switch {
		case i == 15:
			return sum%26 == v
		case i%2 == 0:
			v = fiscalOdd[v]
		}
		sum += v
	}
	return false
}

// fiscalOdd are the values of digits and letters in odd places of a fiscal code.
var fiscalOdd = [26]int{1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23}

// accountAt reports whether an international bank account number begins at i,
// in one piece or in groups of four.
func accountAt(s string, i int) bool {
	if !upper(s[i]) || !upper(s[i+1]) {
		return false
	}
	want := ibanLength(s[i : i+2])
	if want == 0 {
		return false
	}
	var b [34]byte
	n := 0
	for i < len(s) && n < want {
		if c := s[i]; digit(c) || upper(c) {
			b[n] = c
			n++
			i++
			continue
		}
		c, next := separator(s, i)
		if next == 0 || c != ' ' && c != '-' || n%4 != 0 {
			return false
		}
		i = next
	}
	return n == want && !wordAt(s, i) && iban(alias(b[:n]))
}

// ibanLength is how long the account numbers of a country are, 0 if it has none.
func ibanLength(country string) int {
	switch country {
	case "NO":
		return 15
	case "BE":
		return 16
	case "DK", "FO", "FI", "GL", "NL", "SD":
		return 18
	case "MK", "SI":
		return 19
	case "AT", "BA", "EE", "KZ", "XK", "LT", "LU", "MN":
		return 20
	case "CH", "HR", "LI", "LV":
		return 21
	case "BG", "BH", "CR", "DE", "GB", "GE", "IE", "ME", "RS", "VA":
		return 22
	case "TL", "GI", "AE", "IL", "IQ", "OM", "SO":
		return 23
	case "AD", "CZ", "ES", "MD", "PK", "RO", "SA", "SE", "SK", "TN", "VG":
		return 24
	case "LY", "PT", "ST":
		return 25
	case "IS", "TR":
		return 26
	case "FR", "GR", "IT", "MC", "MR", "SM":
		return 27
	case "AL", "AZ", "BY", "CY", "DO", "GT", "HU", "LB", "NI", "PL", "SV":
		return 28
	case "BR", "EG", "PS", "QA", "UA":
		return 29
	case "JO", "KW", "MU":
		return 30
	case "MT", "SC":
		return 31
	}
	return 0
}
