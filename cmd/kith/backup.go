package main

import (
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"kith/proto"
)

// backupName is how backups are named: their times sort. backupSuffix ends the name.
const (
	backupName   = "kith-20060102T150405.000Z" + backupSuffix
	backupSuffix = ".kithbackup"
)

func newBackupCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup DIR",
		Short: "Copy a running node's data into a file in DIR (admin)",
		Long: `Streams a consistent copy of a running node's data into a new file in DIR, named by
the time. The file is complete when it has its name. It holds the hash secret and the
key of receipts in clear: keep it as secret as the data directory.`,
		Example: "  kith backup /backups --key ADMIN-KEY",
		Args:    exactly(1, "a directory"),
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if args[0] == "" { // of a variable that is not set: it would be the directory where one is
			return usagef("name a directory, or . for this one")
		}
		path := filepath.Join(args[0], time.Now().UTC().Format(backupName))
		n, err := c.download(cmd, http.MethodPost, "/v1/backup", path, "backing up")
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd, map[string]any{"file": path, "bytes": n})
		}
		printf(cmd, "wrote %s, %d bytes\n", path, n)
		return nil
	}
	return cmd
}

// download writes what a route streams to a file.
func (c *connection) download(cmd *cobra.Command, method, path, file, doing string) (int64, error) {
	r, err := c.request(cmd.Context(), method, path, nil, nil)
	if err != nil {
		return 0, err
	}
	resp, err := c.do(r)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	return writeWhole(file, resp.Body, newSpinner(cmd.ErrOrStderr(), doing))
}

// writable is where a file at path is put in place: the file that it links to, if it is
// a link. What is there and no file, such as a pipe or /dev/null, is not replaced by one.
func writable(path string) (string, error) {
	if path == "" {
		return "", usagef("name a file")
	}
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(path); err == nil {
			return "", usagef("%s leads to what is no file here: name another", path)
		}
		return path, nil
	}
	if err != nil {
		return path, nil // who writes it is told why not
	}
	switch fi, err := os.Stat(real); {
	case err != nil:
		return path, nil
	case fi.IsDir():
		return "", usagef("%s is a directory: name a file in it", path)
	case !fi.Mode().IsRegular():
		return "", usagef("%s is no plain file, and would be replaced by one: name another", path)
	}
	return real, nil
}

// writeWhole writes in to a file that has its name only once it is complete
// and synced.
func writeWhole(path string, in io.Reader, spin *progress) (n int64, err error) {
	defer spin.done()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return 0, proto.Errorf(proto.CodeInvalid, "cannot make the directory: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".partial-*")
	if err != nil {
		return 0, proto.Errorf(proto.CodeInvalid, "cannot write in that directory: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreGone(os.Remove(f.Name())))
		}
	}()
	n, err = io.Copy(f, io.TeeReader(in, turning{spin}))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return n, proto.Errorf(proto.CodeUnavailable, "the stream broke off after %d bytes: %w", n, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return n, proto.Errorf(proto.CodeInvalid, "cannot name the file: %w", err)
	}
	return n, syncDir(filepath.Dir(path))
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// turning turns a spinner for what is written to it.
type turning struct{ p *progress }

// Write implements io.Writer.
func (t turning) Write(b []byte) (int, error) {
	t.p.turn()
	return len(b), nil
}
