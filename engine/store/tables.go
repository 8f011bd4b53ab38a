package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/fb"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/badger/v4/y"
	gproto "google.golang.org/protobuf/proto"
)

// tableFooterMax bounds the encoded checksum at the end of a table.
const tableFooterMax = 64

// checkedFirst is how many bytes of tables are read before a store opens, which takes
// seconds at most; the blocks of more are checked while it is used, checkedPerSecond
// bytes of them, beside what reads and merges.
var checkedFirst int64 = 512 << 20 // tests change it

const checkedPerSecond = 128 << 20

// checkTables reads the end and the index of every table that the manifest
// names. Badger does so too, but ends the process where they are damaged. What
// the manifest does not name is left of a table whose making was cut short:
// Badger removes it.
//
// The blocks are checked too, up to first bytes of tables: for Badger a damaged block
// has no keys, so that what is in it, such as who opted out, is not known any more, and
// a merge drops it for good. It gives the tables whose blocks are still to be checked.
func checkTables(dir string, o badger.Options, first int64) (later []string, err error) {
	f, err := os.Open(filepath.Join(dir, badger.ManifestFilename))
	if errors.Is(err, os.ErrNotExist) {
		return nil, checkNew(dir)
	}
	if err != nil {
		return nil, openError(dir, err)
	}
	defer f.Close()
	m, _, err := badger.ReplayManifestFile(f, o.ExternalMagicVersion, o)
	if err != nil {
		return nil, corrupt(err, "open store "+dir)
	}
	for id, t := range m.Tables {
		name, plain := table.NewFilename(id, dir), t.Compression == options.None // as all that kith writes
		most := int64(0)
		if plain {
			most = first
		}
		size, err := checkTable(name, most)
		if err != nil {
			return nil, corrupt(fmt.Errorf("%s: %w", filepath.Base(name), err), "open store "+dir)
		}
		if first -= size; first < 0 && plain {
			later = append(later, name)
		}
	}
	return later, nil
}

// checkBlocksOf checks tables of the open store.
func (s *Badger) checkBlocksOf(tables []string) {
	for _, name := range tables {
		size, err := s.checkOpen(name)
		if err != nil {
			s.fail(corrupt(fmt.Errorf("%s: %w", filepath.Base(name), err), "check store"))
			return
		}
		if !s.await(time.Duration(size) * time.Second / checkedPerSecond) {
			return
		}
	}
}

// checkOpen checks a table of the open store. One that was merged meanwhile is emptied,
// then removed: what is found is believed if the table is as it was, twice.
func (s *Badger) checkOpen(name string) (size int64, err error) {
	before, err := os.Stat(name)
	if err != nil {
		return 0, nil // it is gone
	}
	for range 2 {
		if size, err = checkTable(name, math.MaxInt64); err == nil {
			return size, nil
		}
		if !s.await(tableGoneMax) {
			return 0, nil
		}
		if now, gone := os.Stat(name); gone != nil || now.Size() != before.Size() {
			return 0, nil
		}
	}
	return 0, err
}

// tableGoneMax is how long Badger takes at most from emptying a table's file to
// removing it.
const tableGoneMax = time.Second

// await is false if the store is closed before d is over.
func (s *Badger) await(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-s.ended:
		return false
	}
}

// checkNew refuses tables without a manifest, which Badger would remove.
func checkNew(dir string) error {
	if tables, _ := filepath.Glob(filepath.Join(dir, "*.sst")); len(tables) > 0 {
		return corrupt(errors.New("there are tables but no manifest"), "open store "+dir)
	}
	return nil
}

// checkTable verifies a table's index and, if it has at most so many bytes, its blocks.
// A table ends with: index, its length (4 bytes), its checksum (pb.Checksum), that one's
// length (4 bytes).
func checkTable(name string, most int64) (size int64, err error) {
	defer recoverCorrupt(&err) // kinds of checksums that Badger does not know are a panic of it
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	index, err := checkIndex(f, st)
	if err == nil && st.Size() <= most {
		err = checkBlocks(f, index)
	}
	return st.Size(), err
}

func checkIndex(f *os.File, st os.FileInfo) ([]byte, error) {
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
		return nil, err
	}
	n := binary.BigEndian.Uint32(raw)
	if n > tableFooterMax {
		return nil, fmt.Errorf("its checksum says it has %d bytes", n)
	}
	if raw, err = cut(int64(n)); err != nil {
		return nil, err
	}
	if err := gproto.Unmarshal(raw, &sum); err != nil {
		return nil, err
	}
	if raw, err = cut(4); err != nil {
		return nil, err
	}
	index, err := cut(int64(binary.BigEndian.Uint32(raw)))
	if err != nil {
		return nil, err
	}
	if len(index) == 0 {
		return nil, errors.New("it has no index")
	}
	return index, y.VerifyChecksum(index, &sum)
}

// checkBlocks verifies the checksums of all blocks. A block ends with its checksum, and
// that one's length (4 bytes).
func checkBlocks(f *os.File, index []byte) error {
	list := fb.GetRootAsTableIndex(index, 0)
	var at fb.BlockOffset
	var b []byte
	for i := range list.OffsetsLength() {
		if !list.Offsets(&at, i) {
			return fmt.Errorf("its index does not name block %d", i)
		}
		b = slices.Grow(b[:0], int(at.Len()))[:at.Len()]
		if _, err := f.ReadAt(b, int64(at.Offset())); err != nil {
			return err
		}
		var sum pb.Checksum
		end := len(b) - 4
		if end < 0 {
			return fmt.Errorf("its block %d has %d bytes, too few", i, len(b))
		}
		n := int(binary.BigEndian.Uint32(b[end:]))
		if n > min(end, tableFooterMax) {
			return fmt.Errorf("its block %d is damaged: its checksum says it has %d bytes", i, n)
		}
		if err := gproto.Unmarshal(b[end-n:end], &sum); err != nil {
			return fmt.Errorf("its block %d is damaged: %w", i, err)
		}
		if err := y.VerifyChecksum(b[:end-n], &sum); err != nil {
			return fmt.Errorf("its block %d is damaged: %w", i, err)
		}
	}
	return nil
}
