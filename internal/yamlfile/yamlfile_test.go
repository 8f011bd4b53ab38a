package yamlfile_test

import (
	"errors"
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

func TestLibraryPanicIsAnError(t *testing.T) {
	if _, err := yamlfile.Decode([]byte("tags: !00\n0000000000"), &document{}, "see x"); err == nil {
		t.Error("a list with an unknown tag and no elements was taken")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("name: x\ntags: [a, b]\nkeys:\n  - {id: a}\n", "$.keys[0].id")
	f.Add("tags: !00\n0000000000", "$.tags")
	f.Add("a: &a [*a]\n", "$.a")
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
