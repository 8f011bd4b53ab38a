package yamlfile_test

import (
	"errors"
	"fmt"
	"testing"

	"kith/internal/yamlfile"
	"kith/proto"
)

type document struct {
	Name string   `yaml:"name"`
	Tags []string `yaml:"tags"`
	Keys []struct {
		ID string `yaml:"id"`
	} `yaml:"keys"`
}

func TestPosition(t *testing.T) {
	var d document
	f, err := yamlfile.Decode([]byte("name: x\nkeys:\n  - id: a\n  - id: b\n"), &d, "see x")
	if err != nil || d.Name != "x" || len(d.Keys) != 2 {
		t.Fatalf("%+v, %v", d, err)
	}
	for path, want := range map[string][2]int{
		"$.keys[1].id":    {4, 9},
		"$.keys[0].other": {3, 7},
		"$.tags":          {0, 0},
	} {
		if line, column := f.Position(path); line != want[0] || column != want[1] {
			t.Errorf("%s at %d:%d, want %d:%d", path, line, column, want[0], want[1])
		}
	}
}

// The mark that editors put before a file is no part of its first key, and a line
// that ends with CRLF is one.
func TestFilesOfOtherEditors(t *testing.T) {
	for text, want := range map[string]int{"\ufeffname: x\n": 1, "\ufeff# a comment\r\nname: x\r\n": 2} {
		var d document
		if f, err := yamlfile.Decode([]byte(text), &d, "see x"); err != nil || d.Name != "x" {
			t.Errorf("%q: %v, %+v", text, err, d)
		} else if line, _ := f.Position("$.name"); line != want {
			t.Errorf("%q has its name in line %d", text, line)
		}
	}
}

func TestUnknownFieldIsRefused(t *testing.T) {
	_, err := yamlfile.Decode([]byte("name: x\nkyes: []\n"), &document{}, "see x")
	const want = `invalid: unknown field "kyes": did you mean "keys"? (line 2, column 1)`
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

func TestSeveralDocumentsAreRefused(t *testing.T) {
	for _, text := range []string{"name: x\n---\nname: y\n", "name: x\n...\nname: y\n"} {
		if _, err := yamlfile.Decode([]byte(text), &document{}, "see x"); err == nil {
			t.Errorf("%q: the second document was left out without a word", text)
		}
	}
	if _, err := yamlfile.Decode([]byte("---\nname: x\n"), &document{}, "see x"); err != nil {
		t.Errorf("one document that begins with a line: %v", err)
	}
}

// A file with nothing in it leaves the defaults as they are.
func TestNothingChangesNothing(t *testing.T) {
	for _, text := range []string{"", "\n", "# a comment\n", "---\n", "---\n# a comment\n", "null\n", "~\n"} {
		d := document{Name: "as before"}
		if f, err := yamlfile.Decode([]byte(text), &d, "see x"); err != nil || d.Name != "as before" {
			t.Errorf("%q: %v, %+v", text, err, d)
		} else if line, column := f.Position("$.keys[0].id"); line != 0 || column != 0 {
			t.Errorf("%q has a place %d:%d", text, line, column)
		}
	}
}

func TestKeyThatIsThereTwice(t *testing.T) {
	_, err := yamlfile.Decode([]byte("name: x\nkeys: []\n\nkeys:\n  - id: a\n"), &document{}, "see x")
	const want = "invalid: keys stands in line 2 already: put what is here there, in the place of what it says (line 4, column 1)"
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

type counts struct {
	Most   int     `yaml:"most"`
	Share  float64 `yaml:"share"`
	Limits []struct {
		Rate  int64 `yaml:"rate"`
		Ports []int `yaml:"ports"`
		On    bool  `yaml:"on"`
	} `yaml:"limits"`
}

// The library takes 0.5 for 0, which may stand for no limit.
func TestNumbersAreNotCutOff(t *testing.T) {
	for text, want := range map[string]string{
		"most: 1.5\n":     "invalid: most takes a whole number, not 1.5 (line 1, column 7)",
		"most: \"0.5\"\n": "invalid: most takes a whole number, not 0.5 (line 1, column 7)",
		"most: 1e30\n":    "invalid: 1e30 is too large a number (line 1, column 7)",
		"limits:\n  - rate: 1\n  - {rate: 0.5}\n":    "invalid: limits[1].rate takes a whole number, not 0.5 (line 3, column 12)",
		"limits:\n  - ports: [1, 2.5]\n":             "invalid: limits[0].ports[1] takes a whole number, not 2.5 (line 2, column 16)",
		"most: 99999999999999999999\n":               "invalid: 99999999999999999999 is too large a number (line 1, column 7)",
		"most: 1e3\nshare: 0.5\nlimits: [{rate: 7}]": "",
	} {
		_, err := yamlfile.Decode([]byte(text), &counts{}, "see x")
		if got := fmt.Sprint(err); got != want && (err != nil || want != "") {
			t.Errorf("%q: got %v\nwant %s", text, got, want)
		}
	}
}

// Text that looks like a number is what is written, or an error.
func TestTextIsNotANumber(t *testing.T) {
	for text, want := range map[string]string{
		"name: 2026_11\n":                        `invalid: name looks like a number, which YAML writes otherwise: put it in quotes (line 1, column 7)`,
		"keys:\n  - id: 007\n":                   `invalid: keys[0].id looks like a number, which YAML writes otherwise: put it in quotes (line 2, column 9)`,
		"tags: [a, 1.50]\n":                      `invalid: tags[1] looks like a number, which YAML writes otherwise: put it in quotes (line 1, column 11)`,
		"name: 123\n":                            "",
		"name: '007'\n":                          "",
		"tags: [08, 1.5, 1e3]\n":                 "",
		"name: 123456789012345678901234567890\n": "",
	} {
		_, err := yamlfile.Decode([]byte(text), &document{}, "see x")
		if got := fmt.Sprint(err); got != want && (err != nil || want != "") {
			t.Errorf("%q: got %v\nwant %s", text, got, want)
		}
	}
}

func TestWrongTypeNamesTheField(t *testing.T) {
	_, err := yamlfile.Decode([]byte("most: 1\nlimits:\n  - rate: 1\n    on: yes\n"), &counts{}, "see x")
	const want = "invalid: limits[0].on takes true or false, not text (line 4, column 9)"
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

func TestLibraryPanicIsAnError(t *testing.T) {
	if _, err := yamlfile.Decode([]byte("tags: !00\n0000000000"), &document{}, "see x"); err == nil {
		t.Error("a list with an unknown tag and no elements was taken")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("name: x\ntags: [a, b]\nkeys:\n  - {id: a}\n", "$.keys[0].id")
	f.Add("tags: !00\n0000000000", "$.tags")
	f.Add("a: &a [*a]\n", "$.a")
	f.Add("keys:\n  - id: 0_7\n", "$.keys[0]")
	f.Fuzz(func(t *testing.T, text, path string) {
		file, err := yamlfile.Decode([]byte(text), &document{}, "see x")
		if err != nil {
			var ours *proto.Error
			if !errors.As(err, &ours) {
				t.Fatalf("not a *proto.Error: %v", err)
			}
			return
		}
		file.Position(path)
	})
}
