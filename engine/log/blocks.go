package log

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/minio/highwayhash"

	"kith/proto"
)

// The server trusts the sequences in its block files: one flipped bit can
// make it fill a hole of 2^60 records until memory ends. So the outline of
// each block is checked before the server reads it. Contents have checksums
// of their own, the server's and the entry's. By its own the server cuts a block off
// at the first record that is damaged. Behind an older block that leaves a gap, which
// whoever reads finds; of the newest nobody would miss what is cut off. So that one's
// contents are checked too, where no other server has them.
//
// A block is a row of records: length uint32 (its top bit marks headers),
// sequence uint64 (its two top bits mark erased and tombstone), time uint64, length
// of the subject uint16, the subject, with headers their length uint32, headers and
// message, checksum (8); little-endian.
const (
	blockHeaderBytes = 22
	blockSumBytes    = highwayhash.Size64
	blockRecordMin   = blockHeaderBytes + blockSumBytes
	blockRecordMax   = 32 << 20
	blockHeaders     = 1 << 31
	blockErased      = 1 << 63
	blockTombstone   = 1 << 62
	// blockJumpMax is how far neighbouring sequences may be apart. They are
	// consecutive but for what a purge leaves.
	blockJumpMax = 1 << 20
)

// checkBlocks checks the block files of all streams below dir; alone: of a server that
// no other has what it has.
func checkBlocks(dir string, alone bool) error {
	streams, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", "*", "msgs"))
	if err != nil {
		return proto.Errorf(proto.CodeInternal, "the log's files cannot be listed: %w", err)
	}
	for _, msgs := range streams {
		if err := checkStreamBlocks(msgs, alone); err != nil {
			return err
		}
	}
	return nil
}

func checkStreamBlocks(msgs string, alone bool) error {
	files, err := filepath.Glob(filepath.Join(msgs, "*.blk"))
	if err != nil {
		return proto.Errorf(proto.CodeInternal, "the log's files cannot be listed: %w", err)
	}
	slices.SortFunc(files, func(a, b string) int { return cmp.Compare(blockNumber(a), blockNumber(b)) })
	var last uint64
	for i, name := range files {
		if last, err = checkBlockFile(name, last, i == len(files)-1, alone); err != nil {
			return err
		}
	}
	return nil
}

func blockNumber(name string) uint64 {
	n, _ := strconv.ParseUint(strings.TrimSuffix(filepath.Base(name), ".blk"), 10, 64)
	return n
}

func checkBlockFile(name string, last uint64, newest, alone bool) (uint64, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, proto.Errorf(proto.CodeCorrupt, "a file of the log cannot be read: check its permissions and the disk: %w", err)
	}
	defer f.Close()
	last, at, what, err := checkBlock(f, last, newest)
	if err == nil && what == "" && newest && alone {
		at, what, err = checkNewest(f, blockKey(name))
	}
	if err != nil {
		return 0, proto.Errorf(proto.CodeCorrupt, "a file of the log cannot be read: check the disk: %w", err)
	}
	if what != "" {
		return 0, proto.Errorf(proto.CodeCorrupt, "the log file %s is damaged at byte %d (%s): restore the log from a backup; nothing was changed", name, at, what)
	}
	return last, nil
}

// checkBlock walks the records of f, which follow sequence last (0: unknown),
// and says where and how they are damaged. The end of the newest block may be
// torn: what a crash left there was never acknowledged, and the server cuts
// it off.
func checkBlock(f io.ReadSeeker, last uint64, newest bool) (_ uint64, at int64, what string, err error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return last, 0, "", err
	}
	r := bufio.NewReaderSize(f, 16<<10)
	for move := true; at < end; {
		if move {
			if _, err := f.Seek(at, io.SeekStart); err != nil {
				return last, at, "", err
			}
			r.Reset(f)
		}
		head, err := r.Peek(blockHeaderBytes)
		if err != nil {
			return last, at, tornUnless(newest), ignoreEOF(err)
		}
		size, seq := int64(binary.LittleEndian.Uint32(head)&^blockHeaders), binary.LittleEndian.Uint64(head[4:])
		switch {
		case size < blockRecordMin || size > blockRecordMax:
			if newest && onlyZeroes(r) {
				return last, at, "", nil // the file had grown, its content had not arrived
			}
			return last, at, "a record of impossible length", nil
		case at+size > end:
			return last, at, tornUnless(newest), nil
		case seq&blockTombstone == 0 && !follows(seq&^blockErased, last):
			return last, at, "a record of impossible sequence", nil
		case seq&blockTombstone == 0:
			last = max(last, seq&^blockErased)
		}
		at += size
		if move = int64(r.Buffered()) < size; !move {
			_, _ = r.Discard(int(size)) // it is buffered
		}
	}
	return last, at, "", nil
}

// blockKey is the key of a block's checksums: the server makes it of the stream's name
// and the block's number.
func blockKey(name string) [32]byte {
	stream := filepath.Base(filepath.Dir(filepath.Dir(name)))
	return sha256.Sum256(fmt.Appendf(nil, "%s-%d", stream, blockNumber(name)))
}

// checkNewest says where the newest block has a damaged record with a whole message
// behind it. What a crash tore is the last message in it, each of which is synced before
// the next, or are marks of erased ones, which are written many at once. (A server of
// several syncs its blocks now and then only: it has its log of votes beside, from which
// it writes again what it cut off.)
func checkNewest(f io.ReadSeeker, key [32]byte) (at int64, what string, err error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return 0, "", err
	}
	b, err := io.ReadAll(f)
	if err != nil {
		return 0, "", err
	}
	sums, err := highwayhash.NewDigest64(key[:])
	if err != nil {
		return 0, "", err
	}
	var last uint64
	for {
		size, seq := wholeRecord(b[at:], last, sums)
		if size == 0 {
			break
		}
		at, last = at+int64(size), max(last, seq)
	}
	for i := int(at) + 1; i < len(b); i++ {
		if size, seq := wholeRecord(b[i:], last, sums); size > 0 && seq > 0 {
			return at, "a record whose checksum is wrong, with others behind it", nil
		}
	}
	return at, "", nil
}

// wholeRecord is the length of the record that b begins with and its sequence, which may
// follow last (0: unknown); 0 if there is none whose checksum is right.
func wholeRecord(b []byte, last uint64, sums hash.Hash64) (size int, seq uint64) {
	if len(b) < blockRecordMin {
		return 0, 0
	}
	head := binary.LittleEndian.Uint32(b)
	size, subject := int(head&^blockHeaders), int(binary.LittleEndian.Uint16(b[20:]))
	from := blockHeaderBytes + subject
	if head&blockHeaders != 0 {
		from += 4
	}
	seq = binary.LittleEndian.Uint64(b[4:])
	if seq &^= blockErased; seq&blockTombstone != 0 {
		seq = 0 // of any record before
	}
	if size > blockRecordMax || size > len(b) || from+blockSumBytes > size || !follows(seq, last) {
		return 0, 0
	}
	sums.Reset()
	_, _ = sums.Write(b[4:20])
	_, _ = sums.Write(b[blockHeaderBytes : blockHeaderBytes+subject])
	_, _ = sums.Write(b[from : size-blockSumBytes])
	if !bytes.Equal(sums.Sum(nil), b[size-blockSumBytes:size]) {
		return 0, 0
	}
	return size, seq
}

func follows(seq, last uint64) bool {
	return last == 0 || seq == 0 || seq <= last+blockJumpMax && last <= seq+blockJumpMax
}

func tornUnless(newest bool) string {
	if newest {
		return ""
	}
	return "a record is cut off"
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func onlyZeroes(r *bufio.Reader) bool {
	for {
		c, err := r.ReadByte()
		if err != nil {
			return true
		}
		if c != 0 {
			return false
		}
	}
}
