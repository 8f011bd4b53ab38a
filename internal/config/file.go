package config

import (
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

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

// File is a configuration file that was read, for the places of what is wrong in it.
type File struct{ yaml yamlfile.File }

// Load reads and checks a configuration file. An error carries the line.
func Load(path string) (Config, error) {
	c, file, err := Read(path)
	if err != nil {
		return Config{}, err
	}
	return checked(c, file)
}

// Read is Load without the checks, for those who change what the file says before it is
// to be right.
func Read(path string) (Config, File, error) {
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Config{}, File{}, proto.Errorf(proto.CodeNotFound, "no configuration at %s: write one with `kith config init`, or pass --config FILE", path)
	case err != nil:
		return Config{}, File{}, proto.Errorf(proto.CodeInvalid, "cannot read the configuration (%w)", err)
	case len(b) > fileBytesMax:
		return Config{}, File{}, proto.Errorf(proto.CodeTooLarge, "%s has %d bytes: a configuration has at most %d", path, len(b), fileBytesMax)
	}
	return decode(b)
}

func decode(b []byte) (Config, File, error) {
	c := Default()
	y, err := yamlfile.Decode(b, &c, "`kith config init` shows every field")
	return c, File{y}, err
}

// Check is c.Validate, with the line of the file that c was read from. The fields of
// changed, such as nats.url, are not as the file has them: changedWrong is whether it is
// one of these, which has no line.
func (f File) Check(c *Config, changed ...string) (changedWrong bool, err error) {
	p := c.problem()
	if p == nil {
		return false, nil
	}
	e := p.asError()
	if field, _, _ := strings.Cut(p.name(), "["); slices.Contains(changed, field) {
		return true, e
	}
	e.Line, e.Column = f.yaml.Position(p.path)
	return false, e
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
	c, file, err := decode(b)
	if err != nil {
		return Config{}, err
	}
	return checked(c, file)
}

func checked(c Config, file File) (Config, error) {
	if _, err := file.Check(&c); err != nil {
		return Config{}, err
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
