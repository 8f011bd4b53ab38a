package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/badger/v4/y"
	gproto "google.golang.org/protobuf/proto"
)

// tableFooterMax bounds the encoded checksum at the end of a table.
const tableFooterMax = 64

// checkTables reads the end and the index of every table that the manifest
// names. Badger does so too, but ends the process where they are damaged. What
// the manifest does not name is left of a table whose making was cut short:
// Badger removes it.
func checkTables(dir string, o badger.Options) error {
	f, err := os.Open(filepath.Join(dir, badger.ManifestFilename))
	if errors.Is(err, os.ErrNotExist) {
		return checkNew(dir)
	}
	if err != nil {
		return openError(dir, err)
	}
	defer f.Close()
	m, _, err := badger.ReplayManifestFile(f, o.ExternalMagicVersion, o)
	if err != nil {
		return corrupt(err, "open store "+dir)
	}
	for id := range m.Tables {
		name := table.NewFilename(id, dir)
		if err := checkTable(name); err != nil {
			return corrupt(fmt.Errorf("%s: %w", filepath.Base(name), err), "open store "+dir)
		}
	}
	return nil
}

// checkNew refuses tables without a manifest, which Badger would remove.
func checkNew(dir string) error {
	if tables, _ := filepath.Glob(filepath.Join(dir, "*.sst")); len(tables) > 0 {
		return corrupt(errors.New("there are tables but no manifest"), "open store "+dir)
	}
	return nil
}

// checkTable verifies a table's index. A table ends with: index, its length (4
// bytes), its checksum (pb.Checksum), that one's length (4 bytes).
func checkTable(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	end := st.Size()
	cut := func(n int64) ([]byte, error) {
		if n > end {
			return nil, fmt.Errorf("it has %d bytes, too few", st.Size())
		}
		end -= n
		b := make([]byte, n)
		_, err := f.ReadAt(b, end)
		return b, err
	}
	var sum pb.Checksum
	raw, err := cut(4)
	if err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(raw)
	if n > tableFooterMax {
		return fmt.Errorf("its checksum says it has %d bytes", n)
	}
	if raw, err = cut(int64(n)); err != nil {
		return err
	}
	if err := gproto.Unmarshal(raw, &sum); err != nil {
		return err
	}
	if raw, err = cut(4); err != nil {
		return err
	}
	index, err := cut(int64(binary.BigEndian.Uint32(raw)))
	if err != nil {
		return err
	}
	if len(index) == 0 {
		return fmt.Errorf("it has no index")
	}
	return y.VerifyChecksum(index, &sum)
}
