package engine

import (
	"context"
	"io"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"kith/engine/store"
	"kith/proto"
)

// disk watches the space that the log and the store have left. Below the
// reserve events are refused. Below the floor nothing is written at all, not
// even beats and commits: the store writes through mapped memory, where a
// full disk is not an error but the end of the process.
type disk struct {
	dirs           []string // the store's first
	reserve, floor uint64
	merges         uint64 // that the store's merges may take besides
	now            func() time.Time

	mu      sync.Mutex
	checked time.Time
	free    uint64
	room    uint64 // free, without what is for merges
}

const diskFresh = 20 * time.Millisecond // how old an answer may be

// Defaults of the reserve, by the size of the disk.
const (
	reserveLarge = 256 << 20
	reserveLeast = 48 << 20
	diskSmall    = 2 << 30 // smaller ones get smaller files, and an eighth as reserve
	diskRoomy    = 8 << 30 // with more free at the start the store's merges may be large
)

// mergesOf is what the store's merges may take, with so much free at the start; 0:
// as little as it can.
func mergesOf(free uint64) uint64 {
	if free <= diskRoomy {
		return 0
	}
	return store.MergeRoom
}

// openStore opens the node's store, with files and merges as the disk allows.
func openStore(c *Config) (*store.Badger, error) {
	small := c.SmallStore || smallDisk(c.storeDir())
	if c.merges == 0 && !small {
		c.merges = mergesOf(freeBytes(c.storeDir()))
	}
	return store.Open(store.Config{Dir: c.storeDir(), Small: small, LargeMerges: c.merges > 0, CheckTables: c.CheckTables, Logger: c.Logger})
}

// roomToOpen refuses a store on a full disk: it would write to mapped files at once.
func roomToOpen(dir string) error {
	if free, least := freeBytes(dir), opening(dir); free < least {
		return proto.Errorf(proto.CodeDiskFull, "the disk of the store %s has %d bytes free, and opening it takes %d: free space or add disk, then start again; nothing acknowledged is lost", dir, free, least)
	}
	return nil
}

// opening is what a store writes when it is opened: a memory table, and as tables
// those that a crash left.
func opening(dir string) uint64 {
	least := uint64(4 << 20)
	names, _ := filepath.Glob(filepath.Join(dir, "*.mem")) // the pattern is well-formed
	for _, name := range names {
		var s syscall.Stat_t // they are mapped at their full size and have holes
		if syscall.Stat(name, &s) == nil {
			least += uint64(s.Blocks) * 512
		}
	}
	return least
}

// newDisk watches dirs. reserve is 0 for the default, which the largest merge fits
// in.
func newDisk(reserve, merges uint64, dirs ...string) *disk {
	d := &disk{dirs: dirs, reserve: reserve, now: time.Now}
	if d.reserve == 0 {
		d.reserve = reserveLarge
		d.merges = merges
		if smallDisk(dirs[0]) {
			d.reserve = max(reserveLeast, diskSize(dirs[0])/8)
		}
	}
	d.floor = d.reserve / 4
	return d
}

// left is the least space that any of the directories has.
func (d *disk) left() uint64 {
	free, _ := d.look()
	return free
}

// look gives left, and what of it events may use.
func (d *disk) look() (free, room uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if t := d.now(); t.Sub(d.checked) > diskFresh {
		d.checked, d.free, d.room = t, ^uint64(0), ^uint64(0)
		for i, dir := range d.dirs {
			free := freeBytes(dir)
			d.free = min(d.free, free)
			if i == 0 {
				free -= min(free, d.merges)
			}
			d.room = min(d.room, free)
		}
	}
	return d.free, d.room
}

// low reports whether events must be refused, stopped whether nothing may be
// written.
func (d *disk) low() bool {
	_, room := d.look()
	return room < d.reserve
}
func (d *disk) stopped() bool { return d.left() < d.floor }

// purgeRoom is a block of the log and more, which a purge may write anew.
const purgeRoom = 8 << 20

// purges reports whether the log may be purged: one write that fails there is an error
// of the stream until a restart.
func (d *disk) purges() bool { return d.left() >= max(d.floor, purgeRoom) }

// await returns when something may be written, or with ctx's error.
func (d *disk) await(ctx context.Context) error {
	for d.stopped() {
		if !pause(ctx, 5*diskFresh) {
			return ctx.Err()
		}
	}
	return nil
}

var errDiskFull = proto.Errorf(proto.CodeDiskFull, "the disk is nearly full: free space or add disk, then try again; look-ups go on and nothing acknowledged is lost")

// roomReader reads what is loaded into a store, for as long as the disk has room for
// what that has yet to write of it.
type roomReader struct {
	r    io.Reader
	disk *disk
	need func(read uint64) uint64
	read uint64
	err  error // why it ended early
}

// Read implements io.Reader.
func (r *roomReader) Read(p []byte) (int, error) {
	if free, need := r.disk.left(), r.disk.floor+r.need(r.read); free < need {
		r.err = proto.Errorf(proto.CodeDiskFull, "the disk of the store %s is too full for what is loaded into it: after %d bytes of that %d are free, and %d must be for what is written and merged meanwhile: free space or add disk, then try again", r.disk.dirs[0], r.read, free, need)
		return 0, r.err
	}
	n, err := r.r.Read(p)
	r.read += uint64(n)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

// freeBytes is what an unprivileged process may still write below dir; all
// there is if that cannot be told.
func freeBytes(dir string) uint64 {
	s, ok := statDisk(dir)
	if !ok {
		return ^uint64(0)
	}
	return s.Bavail * uint64(s.Bsize)
}

func diskSize(dir string) uint64 {
	s, ok := statDisk(dir)
	if !ok {
		return ^uint64(0)
	}
	return s.Blocks * uint64(s.Bsize)
}

// statDisk asks about the disk on which dir is, or will be once it is made.
func statDisk(dir string) (s syscall.Statfs_t, ok bool) {
	for {
		err := syscall.Statfs(dir, &s)
		up := filepath.Dir(dir)
		if err != syscall.ENOENT || up == dir {
			return s, err == nil
		}
		dir = up
	}
}

func smallDisk(dir string) bool { return diskSize(dir) < diskSmall }

// watchDisk tells operators when events begin and cease to be refused, and has lanes
// that stopped keep nothing of others on the disk.
func (n *Node) watchDisk(ctx context.Context) {
	was := false
	for {
		if low := n.disk.low(); low != was {
			was = low
			if low { // nothing is left to be written when it is full
				if err := n.store.Sync(); err != nil {
					n.logger.Error("store", "error", err)
				}
			}
			n.logger.Warn("disk space", "refusing_events", low, "free_bytes", n.disk.left(), "reserve_bytes", n.disk.reserve+n.disk.merges)
		}
		n.renewStopped()
		if !pause(ctx, time.Second) {
			return
		}
	}
}

// retain purges the log behind what is applied: entries over the age of
// retention, and the oldest ones once the log has half of the bytes that it
// may have.
func (l *lane) retain(ctx context.Context) {
	age := min(time.Minute, l.node.config.LogRetention/2)
	last := l.node.config.Now()
	for pause(ctx, min(time.Second, age)) {
		if !l.node.disk.purges() {
			continue
		}
		err := l.purgeBySize(ctx)
		if t := l.node.config.Now(); err == nil && t.Sub(last) >= age {
			last = t
			err = l.purgeByAge(ctx)
		}
		if err != nil && ctx.Err() == nil {
			l.logger.Warn("log cannot be purged", "error", err)
		}
	}
}

func (l *lane) purgeBySize(ctx context.Context) error {
	info, err := l.stream.Info(ctx)
	if err != nil || info.BytesMax == 0 || info.Bytes <= info.BytesMax/2 || info.Last < info.First {
		return err
	}
	perEntry := info.Bytes/uint64(info.Last-info.First+1) + 1
	over := proto.Offset((info.Bytes - info.BytesMax/16*7) / perEntry) // more than need be: each purge waits for the store
	upTo := min(info.First+over, l.appliedSequence())
	if upTo <= info.First {
		return nil
	}
	return l.purge(ctx, upTo-1)
}

// appliedSequence is the last applied entry's sequence in the log as it is now.
func (l *lane) appliedSequence() proto.Offset {
	applied, _, _, _ := l.progress.get()
	return applied - proto.Offset(l.base)
}

// purge removes applied entries, once the store need not read them again.
func (l *lane) purge(ctx context.Context, upTo proto.Offset) error {
	if !l.node.disk.purges() {
		return errDiskFull
	}
	if err := l.store.Sync(); err != nil {
		return err
	}
	return l.stream.Purge(ctx, upTo)
}

// purgeByAge removes what is older than the retention and applied, but for
// the last applied entry: the fingerprint compares it.
func (l *lane) purgeByAge(ctx context.Context) error {
	info, err := l.stream.Info(ctx)
	if err != nil {
		return err
	}
	cutoff := l.node.config.Now().Add(-l.node.config.LogRetention)
	lo, hi := info.First, l.appliedSequence() // first not to purge is in [lo, hi]
	start := lo
	for lo < hi {
		mid := lo + (hi-lo)/2
		rec, err := l.stream.Get(ctx, mid)
		if err != nil && proto.CodeOf(err) != proto.CodeNotFound {
			return err
		}
		if err != nil || rec.Stored.Before(cutoff) {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo <= start {
		return nil
	}
	return l.purge(ctx, lo-1)
}
