package config

import (
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"kith/internal/yamlfile"
	"kith/proto"
)

// fileBytesMax bounds a configuration file.
const fileBytesMax = 1 << 20

// Template is the commented kith.yaml that `kith config init` writes. It holds
// the defaults.
//
//go:embed kith.yaml
var Template string

// Load reads and checks a configuration file. An error carries the line.
func Load(path string) (Config, error) {
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Config{}, proto.Errorf(proto.CodeNotFound, "no configuration at %s: write one with `kith config init`, or pass --config FILE", path)
	case err != nil:
		return Config{}, proto.Errorf(proto.CodeInvalid, "cannot read the configuration (%w)", err)
	case len(b) > fileBytesMax:
		return Config{}, proto.Errorf(proto.CodeTooLarge, "%s has %d bytes: a configuration has at most %d", path, len(b), fileBytesMax)
	}
	return Parse(b)
}

// Place is where a field such as $.keys[0].sha256 stands in the configuration file
// at path, or the nearest part of it that the file has; 0, 0 if that is none.
func Place(path, field string) (line, column int) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, 0
	}
	c := Default()
	file, err := yamlfile.Decode(b, &c, "")
	if err != nil {
		return 0, 0
	}
	return file.Position(field)
}

// Parse reads and checks the text of a configuration.
func Parse(b []byte) (Config, error) {
	c := Default()
	file, err := yamlfile.Decode(b, &c, "`kith config init` shows every field")
	if err != nil {
		return Config{}, err
	}
	if p := c.problem(); p != nil {
		e := proto.Errorf(proto.CodeInvalid, "%s: %s", p.name(), p.message)
		e.Line, e.Column = file.Position(p.path)
		return Config{}, e
	}
	return c, nil
}

func at(list string, i int, field string) string { return fmt.Sprintf("%s[%d].%s", list, i, field) }

// Init writes the template to path and refuses to overwrite a file.
func Init(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return proto.Errorf(proto.CodeConflict, "%s exists already: move it away, or name another file", path)
	}
	if err != nil {
		return proto.Errorf(proto.CodeInvalid, "cannot write the configuration (%w)", err)
	}
	_, err = f.WriteString(Template)
	if err = errors.Join(err, f.Close()); err != nil {
		return proto.Errorf(proto.CodeInvalid, "cannot write %s: %w", path, err)
	}
	return nil
}
