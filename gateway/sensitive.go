package gateway

import (
	"bytes"
	_ "embed"
	"slices"
	"strconv"
	"strings"
	"sync"

	"kith/proto"
)

// This file knows what names a sensitive category: words (lists/sensitive.txt) and
// ids of IAB's taxonomies (lists/iab.txt). What becomes of it is said in keepout.go.

//go:embed lists/sensitive.txt
var sensitiveText string

//go:embed lists/iab.txt
var taxonomyText string

// Sensitive is how the list of sensitive categories holds for a client.
type Sensitive struct {
	// Off has nothing kept out.
	Off bool
	// Allow are categories of proto.SensitiveCategories that may be stored.
	Allow []string
	// Except are terms that are not sensitive, Also are further ones that are: as in
	// lists/sensitive.txt, or ids as iab-content:386, iab-audience:529.
	Except, Also []string
}

// The taxonomies, by the prefix that their ids have in Sensitive.
const (
	taxonomyContent  = "iab-content:"
	taxonomyAudience = "iab-audience:"
)

// vocabulary is terms and ids, each with what it names.
type vocabulary struct {
	terms *terms
	ids   map[string]sensitiveKind // by taxonomy and id
}

func newVocabulary() *vocabulary { return &vocabulary{newTerms(), map[string]sensitiveKind{}} }

// add takes a term or an id.
func (v *vocabulary) add(s string, kind sensitiveKind) error {
	for _, taxonomy := range []string{taxonomyContent, taxonomyAudience} {
		if id, ok := strings.CutPrefix(s, taxonomy); ok {
			if id == "" || strings.Trim(id, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") != "" {
				return proto.Errorf(proto.CodeInvalid, "%q is no id of a taxonomy: write one such as %s386", s, taxonomy)
			}
			v.ids[s] = kind
			return nil
		}
	}
	return v.terms.add(s, kind)
}

// sensitiveKindOf is a category by its name.
func sensitiveKindOf(name string) (sensitiveKind, bool) {
	i := slices.Index(proto.SensitiveCategories[:], name)
	return sensitiveKind(i + 1), i >= 0
}

// builtIn is what the lists hold. It is not changed.
var builtIn = sync.OnceValues(func() (*vocabulary, error) {
	v := newVocabulary()
	kind := notSensitive
	for line := range strings.Lines(sensitiveText) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "["); ok {
			name = strings.TrimSuffix(name, "]")
			if kind, ok = sensitiveKindOf(name); !ok && name != "none" {
				return nil, proto.Errorf(proto.CodeInternal, "the list of sensitive words has an unknown category %q", name)
			}
			continue
		}
		if strings.HasPrefix(line, "#") {
			continue
		}
		for t := range strings.SplitSeq(line, ",") {
			if t = strings.TrimSpace(t); t == "" {
				continue
			}
			if err := v.add(t, kind); err != nil {
				return nil, err
			}
		}
	}
	for line := range strings.Lines(taxonomyText) {
		f := strings.Fields(line)
		if len(f) == 0 || f[0] == "#" {
			continue
		}
		kind, ok := sensitiveKindOf(f[1])
		if !ok {
			return nil, proto.Errorf(proto.CodeInternal, "the list of taxonomies has an unknown category %q", f[1])
		}
		for _, id := range f[2:] {
			if err := v.add("iab-"+f[0]+":"+id, kind); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
})

// labelWords are words in the names of properties whose texts are labels: of a
// page, or of a person. In others only a text that is a term and nothing else counts.
var labelWords = wordSet(`search section sections subsection category categories cat cats subcategory topic topics interest interests keyword keywords tag tags genre genres
	label labels channel theme themes segment segments audience audiences persona personas attribute attributes trait traits affinity affinities intent vertical verticals taxonomy
	condition conditions membership memberships lifestyle demographic demographics
	rubrik rubriken ressort thema themen kategorie kategorien interesse interessen zielgruppe zielgruppen schlagwort schlagworte stichwort stichworte merkmal merkmale
	rubrique rubriques categorie categoria categorias seccion sezione tema temas temi sujet sujets motscles interets intereses interessi doelgroep onderwerp rubriek iab`)

func wordSet(s string) map[string]bool {
	m := map[string]bool{}
	for _, w := range strings.Fields(s) {
		m[w] = true
	}
	return m
}

// wholeBytesMax is up to which length a text that is no label may be a term.
const wholeBytesMax = 64

// judge says what is sensitive for one client. It is not changed after newJudge.
type judge struct {
	base, own *vocabulary // own may be nil
	allowed   [sensitiveKinds]bool
}

// newJudge makes a client's; nil if nothing is sensitive for it.
func newJudge(c Sensitive) (*judge, error) {
	base, err := builtIn()
	if err != nil || c.Off {
		return nil, err
	}
	j := &judge{base: base}
	for _, name := range c.Allow {
		kind, ok := sensitiveKindOf(name)
		if !ok {
			return nil, proto.Errorf(proto.CodeInvalid, "%q is no sensitive category: use one of %s", name, strings.Join(proto.SensitiveCategories[:], ", "))
		}
		j.allowed[kind] = true
	}
	if len(c.Except)+len(c.Also) == 0 {
		return j, nil
	}
	j.own = newVocabulary()
	for _, list := range []struct {
		terms []string
		kind  sensitiveKind
	}{{c.Also, sensitiveOwn}, {c.Except, notSensitive}} {
		for _, t := range list.terms {
			if err := j.own.add(t, list.kind); err != nil {
				return nil, err
			}
		}
	}
	return j, nil
}

// find is the first sensitive kind in words (of appendWords); with whole only if
// all of them are one term.
func (j *judge) find(words []byte, place wordPlace, whole bool) sensitiveKind {
	for i := 0; i < len(words); {
		end := bytes.IndexByte(words[i:], ' ')
		kind, n := j.base.terms.longest(words, i, end, place)
		if j.own != nil {
			if k, m := j.own.terms.longest(words, i, end, place); m > 0 && m >= n { // the client's word counts
				kind, n = k, m
			}
		}
		if whole && n < len(words) {
			return notSensitive
		}
		if kind != notSensitive && !j.allowed[kind] {
			return kind
		}
		i += max(n, end+1)
	}
	return notSensitive
}

// id is what an id of a taxonomy names.
func (j *judge) id(taxonomy, id string) sensitiveKind {
	var b [48]byte
	if len(taxonomy)+len(id) > len(b) {
		return notSensitive
	}
	key := append(append(b[:0], taxonomy...), id...)
	kind, ok := sensitiveKind(0), false
	if j.own != nil {
		kind, ok = j.own.ids[string(key)]
	}
	if !ok {
		kind = j.base.ids[string(key)]
	}
	if j.allowed[kind] {
		return notSensitive
	}
	return kind
}

// ids is what a list of ids names first.
func (j *judge) ids(taxonomy, list string) sensitiveKind {
	for list != "" {
		id := list
		if i := strings.IndexAny(list, " ,;|/:[]\"'"); i >= 0 {
			id, list = list[:i], list[i+1:]
		} else {
			list = ""
		}
		if kind := j.id(taxonomy, id); kind != notSensitive {
			return kind
		}
	}
	return notSensitive
}

// named is what a property's or trait's name is for.
type named struct {
	kind     sensitiveKind
	label    bool   // its texts are labels
	taxonomy string // they are ids of one
}

// name judges a property's or trait's name.
func (j *judge) name(buf []byte, name string) (named, []byte) {
	buf = appendWords(buf[:0], name)
	x := named{kind: j.find(buf, inName, false)}
	iab, audience := false, false
	for rest := buf; len(rest) > 0; {
		end := bytes.IndexByte(rest, ' ')
		w := rest[:end]
		x.label = x.label || labelWords[string(w)]
		switch string(w) {
		case "iab", "cattax", "iabcat", "iabcategory":
			iab = true
		case "segtax", "iabaudience":
			iab, audience = true, true
		case "audience", "segment", "segments":
			audience = true
		}
		rest = rest[end+1:]
	}
	switch {
	case iab && audience:
		x.taxonomy = taxonomyAudience
	case iab:
		x.taxonomy = taxonomyContent
	}
	return x, buf
}

// prop judges a property or trait; all texts of labels are labels. buf is for
// reuse.
func (j *judge) prop(buf []byte, name string, v proto.Value, labels bool) (sensitiveKind, []byte) {
	x, buf := j.name(buf, name)
	if x.kind != notSensitive {
		return x.kind, buf
	}
	return j.value(buf, x, v, labels)
}

func (j *judge) value(buf []byte, x named, v proto.Value, labels bool) (sensitiveKind, []byte) {
	text := v.Text
	if v.Kind == proto.NumberValue && x.taxonomy != "" {
		var b [32]byte
		return j.id(x.taxonomy, alias(strconv.AppendFloat(b[:0], v.Number, 'f', -1, 64))), buf
	}
	if v.Kind != proto.TextValue || text == "" {
		return notSensitive, buf
	}
	if x.taxonomy != "" {
		if kind := j.ids(x.taxonomy, text); kind != notSensitive {
			return kind, buf
		}
	}
	labels = labels || x.label
	if !labels && len(text) > wholeBytesMax {
		return notSensitive, buf
	}
	buf = appendWords(buf[:0], text)
	return j.find(buf, inLabel, !labels), buf
}

// label judges a text that is a label: the id of a segment or audience.
func (j *judge) label(text string) sensitiveKind {
	if j == nil {
		return notSensitive
	}
	return j.find(appendWords(nil, text), inLabel, false)
}
