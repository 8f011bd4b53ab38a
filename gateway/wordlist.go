package gateway

import (
	"bytes"
	"strings"
	"unicode"
	"unicode/utf8"

	"kith/proto"
)

// This file finds terms in texts by whole words, without an object per word.

// sensitiveKind is what a text names: nothing, a category of
// proto.SensitiveCategories, counted from 1, or what a client listed itself.
type sensitiveKind uint8

const (
	notSensitive   sensitiveKind = 0
	sensitiveOwn                 = sensitiveKind(len(proto.SensitiveCategories)) + 1
	sensitiveKinds               = sensitiveOwn + 1 // how many there are
)

func (k sensitiveKind) String() string {
	switch k {
	case notSensitive:
		return "none"
	case sensitiveOwn:
		return "own"
	}
	return proto.SensitiveCategories[k-1]
}

// wordPlace is where a text stands.
type wordPlace uint8

const (
	inName  wordPlace = 1 << iota // of a property, trait or event
	inLabel                       // a property's or trait's text, an id
)

// term is what is looked for.
type term struct {
	text   string // words with a space between
	kind   sensitiveKind
	places wordPlace
	alone  bool // only if the text is nothing else
	open   bool // the last word may go on
}

// matches gives how much of text the term takes, 0 if it is not what text begins
// with. text is words, each with a space behind it.
func (t *term) matches(text []byte) int {
	if len(text) <= len(t.text) || string(text[:len(t.text)]) != t.text {
		return 0
	}
	if !t.open {
		if text[len(t.text)] != ' ' {
			return 0
		}
		return len(t.text) + 1
	}
	return len(t.text) + bytes.IndexByte(text[len(t.text):], ' ') + 1
}

// stemLen is by how many bytes open terms of one word are found: those with a
// shorter stem are not taken.
const stemLen = 4

// terms are found by the beginning of a text.
type terms struct {
	words map[string][]term // by the first word, if that is whole
	stems map[string][]term // by its first bytes
	tails map[string][]term // by a word's last bytes; text is what it ends in
	// What words, stems and tails may be found by: most words are not looked up.
	heads, ends quads
}

func newTerms() *terms {
	return &terms{words: map[string][]term{}, stems: map[string][]term{}, tails: map[string][]term{}}
}

// quads is a set of four bytes that may hold some that were not added.
type quads [1 << 8]uint64

func (q *quads) add(b uint32)      { q[q.place(b)>>6] |= 1 << (q.place(b) & 63) }
func (q *quads) has(b uint32) bool { return q[q.place(b)>>6]&(1<<(q.place(b)&63)) != 0 }

func (*quads) place(b uint32) uint32 { return b * 0x9e3779b1 >> 18 }

// headQuad is the first bytes of words, with what follows a shorter first word left
// out.
func headQuad[T string | []byte](words T) (q uint32) {
	for i := 0; i < stemLen && i < len(words) && words[i] != ' '; i++ {
		q = q<<8 | uint32(words[i])
	}
	return q
}

// add takes a term as the lists write it.
func (x *terms) add(s string, kind sensitiveKind) error {
	t := term{kind: kind, places: inName | inLabel}
	for _, p := range []struct {
		prefix string
		places wordPlace
		alone  bool
	}{{"name:", inName, false}, {"label:", inLabel, false}, {"only:", inName | inLabel, true}} {
		if rest, ok := strings.CutPrefix(s, p.prefix); ok {
			s, t.places, t.alone = rest, p.places, p.alone
		}
	}
	s, t.open = strings.CutSuffix(s, "*")
	s, tail := strings.CutPrefix(s, "*")
	t.text = strings.TrimSuffix(string(appendWords(nil, s)), " ")
	first, _, several := strings.Cut(t.text, " ")
	switch {
	case t.text == "", strings.Contains(s, "*"), tail && (t.open || several):
		return proto.Errorf(proto.CodeInvalid, `the term %q has no words, or an asterisk that is neither behind its last word nor before its only one`, s)
	case (tail || t.open && !several) && len(t.text) < stemLen:
		return proto.Errorf(proto.CodeInvalid, "the term %q is too short for an asterisk: give it %d letters", s, stemLen)
	case tail:
		key := t.text[len(t.text)-stemLen:]
		x.tails[key] = append(x.tails[key], t)
		x.ends.add(headQuad(key))
	case t.open && !several:
		key := t.text[:stemLen]
		x.stems[key] = append(x.stems[key], t)
		x.heads.add(headQuad(key))
	default:
		x.words[first] = append(x.words[first], t)
		x.heads.add(headQuad(first))
	}
	return nil
}

// longest is the longest term that text[i:] begins with, and how much it takes, 0
// if there is none. A word of end bytes begins at i.
func (x *terms) longest(text []byte, i, end int, place wordPlace) (kind sensitiveKind, taken int) {
	rest := text[i:]
	take := func(t *term, n int) {
		if n > taken && t.places&place != 0 && (!t.alone || i == 0 && n == len(rest)) {
			kind, taken = t.kind, n
		}
	}
	head := x.heads.has(headQuad(rest))
	if head {
		list := x.words[string(rest[:end])]
		for j := range list {
			take(&list[j], list[j].matches(rest))
		}
	}
	if end < stemLen {
		return kind, taken
	}
	if head {
		list := x.stems[string(rest[:stemLen])]
		for j := range list {
			take(&list[j], list[j].matches(rest))
		}
	}
	if tail := rest[end-stemLen : end]; x.ends.has(headQuad(tail)) {
		list := x.tails[string(tail)]
		for j := range list {
			if bytes.HasSuffix(rest[:end], []byte(list[j].text)) {
				take(&list[j], end+1)
			}
		}
	}
	return kind, taken
}

// appendWords appends the words of s to b, in small letters without accents, each
// with a space behind it. A word ends at everything that is neither letter nor
// digit, at %XX, and before a capital that follows a small letter.
func appendWords(b []byte, s string) []byte {
	start, small := len(b), false
	for i := 0; i < len(s); {
		c := s[i]
		i++
		if plain := plainWordBytes[c]; plain != 0 {
			if c != plain && small {
				b = append(b, ' ')
			}
			b = append(b, plain)
			small = c == plain && c >= 'a'
			continue
		}
		if c < utf8.RuneSelf {
			b, small = endWord(b, start), false
			if c == '%' && len(s)-i >= 2 && hexByte(s[i]) && hexByte(s[i+1]) {
				i += 2
			}
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i-1:])
		i += n - 1
		switch {
		case r == '\u0308' && len(b) > start && strings.IndexByte("aou", b[len(b)-1]) >= 0: // a combining diaeresis
			b = append(b, 'e')
		case unicode.Is(unicode.Mn, r):
		case !unicode.IsLetter(r) && !unicode.IsDigit(r):
			b, small = endWord(b, start), false
		default:
			if small && unicode.IsUpper(r) {
				b = append(b, ' ')
			}
			small = unicode.IsLower(r)
			b = appendFolded(b, unicode.ToLower(r))
		}
	}
	return endWord(b, start)
}

// endWord puts the space behind a word, if one is open.
func endWord(b []byte, start int) []byte {
	if len(b) > start && b[len(b)-1] != ' ' {
		return append(b, ' ')
	}
	return b
}

// plainWordBytes are the letters and digits of ASCII, made small; 0 of all others.
var plainWordBytes = func() (t [256]byte) {
	for c := '0'; c <= '9'; c++ {
		t[c] = byte(c)
	}
	for c := 'a'; c <= 'z'; c++ {
		t[c], t[c-0x20] = byte(c), byte(c)
	}
	return t
}()

// folded are letters with accents as they are told without.
var folded = func() map[rune]string {
	m := map[rune]string{'ä': "ae", 'ö': "oe", 'ü': "ue", 'ß': "ss", 'æ': "ae", 'œ': "oe", 'ø': "oe", 'ı': "i", 'ł': "l", 'đ': "d"}
	for plain, letters := range map[string]string{
		"a": "àáâãåāăą", "c": "çćč", "d": "ď", "e": "èéêëēęě", "g": "ğ", "i": "ìíîïī", "l": "ľĺ", "n": "ñńň", "o": "òóôõōő", "r": "řŕ",
		"s": "śšş", "t": "ťţ", "u": "ùúûūůű", "y": "ýÿ", "z": "źżž",
	} {
		for _, r := range letters {
			m[r] = plain
		}
	}
	return m
}()

func appendFolded(b []byte, r rune) []byte {
	if s, ok := folded[r]; ok {
		return append(b, s...)
	}
	return utf8.AppendRune(b, r)
}
