package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"kith/proto"
)

func newClientCommand(c *connection) *cobra.Command {
	cmd := asGroup(&cobra.Command{
		Use:     "client",
		Short:   "Clients, and the export and erasure of all that one holds (admin)",
		Example: "  kith client list --key ADMIN-KEY\n  kith client export acme -o acme.ndjson --key ADMIN-KEY",
	})
	cmd.AddCommand(newClientListCommand(c), newClientExportCommand(c), newClientEraseCommand(c))
	return cmd
}

func clientPath(name string) string { return "/v1/clients/" + url.PathEscape(name) }

// oneClient takes one client's name as the argument.
func oneClient(cmd *cobra.Command, args []string) error {
	if err := exactly(1, "one client's name")(cmd, args); err != nil {
		return err
	}
	if _, err := proto.ParseClientName(args[0]); err != nil {
		return usageError{err}
	}
	return nil
}

func newClientListCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "All clients",
		Example: "  kith client list --key ADMIN-KEY --json",
		Args:    noArgs,
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var out struct {
			Clients []proto.ClientInfo `json:"clients"`
		}
		if err := c.call(cmd.Context(), http.MethodGet, "/v1/clients", nil, nil, &out); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd, out)
		}
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "NAME\tFLOOR")
		for _, x := range out.Clients {
			fmt.Fprintf(w, "%s\t%d\n", x.Name, x.Floor)
		}
		return w.Flush()
	}
	return cmd
}

func newClientExportCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export NAME",
		Short: "Everything that a client holds, as lines of JSON",
		Long: `Writes all that a client holds: its keys without their secrets, its segments with
their sizes day by day, its saved audiences, what its report keys were told, and of each
identity its traits, segments, events and links. The last line has the kind "end"
and the counts of all: without it the export is not whole, and the command fails. A
file has its name only once it is whole.`,
		Example: `  kith client export acme -o acme.ndjson --key ADMIN-KEY
  kith client export acme --key ADMIN-KEY | gzip > acme.ndjson.gz`,
		Args: oneClient,
	}
	c.flags(cmd)
	file := "-"
	fileFlag(cmd, &file, "output", "o", "`FILE` to write, or - for standard output")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		path := file
		if path != "-" {
			var err error
			if path, err = writable(path); err != nil {
				return err
			}
		}
		r, err := c.request(cmd.Context(), http.MethodGet, clientPath(args[0])+"/export", nil, nil)
		if err != nil {
			return err
		}
		resp, err := c.do(r)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		whole := &wholeExport{in: resp.Body}
		if path == "-" {
			_, err = io.Copy(cmd.OutOrStdout(), whole)
			return err
		}
		n, err := writeWhole(path, whole, newSpinner(cmd.ErrOrStderr(), "exporting"))
		if err != nil {
			return err
		}
		printf(cmd, "wrote %s, %d bytes, %d identities\n", file, n, whole.identities)
		return nil
	}
	return cmd
}

// endBytesMax bounds the last line of an export.
const endBytesMax = 1 << 10

// wholeExport reads an export, and fails at the end if its last line is not the
// one that ends it.
type wholeExport struct {
	in         io.Reader
	tail       []byte
	identities int
}

// Read implements io.Reader.
func (x *wholeExport) Read(p []byte) (int, error) {
	n, err := x.in.Read(p)
	x.tail = append(x.tail, p[:n]...)
	if len(x.tail) > endBytesMax {
		x.tail = append(x.tail[:0], x.tail[len(x.tail)-endBytesMax:]...)
	}
	if errors.Is(err, io.EOF) && !x.ended() {
		return n, proto.Errorf(proto.CodeUnavailable, "the export broke off: ask for it again")
	}
	return n, err
}

// ended reports whether the last line says that all before it is there.
func (x *wholeExport) ended() bool {
	line, whole := bytes.CutSuffix(x.tail, []byte{'\n'})
	var end struct {
		Kind       string
		Identities int
	}
	line = line[bytes.LastIndexByte(line, '\n')+1:]
	if !whole || json.Unmarshal(line, &end) != nil || end.Kind != "end" {
		return false
	}
	x.identities = end.Identities
	return true
}

func newClientEraseCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "erase NAME --yes",
		Short: "End a client and erase all that it holds",
		Long: `Ends a client for good: its keys open nothing any more, its segments are gone, and what
it knows is taken out of every identity, step by step. What others know stays. It returns
when nothing is left; asked for again it goes on waiting. Export the client before, and
take it out of kith.yaml, or the next start makes it anew, empty.`,
		Example: "  kith client erase acme --yes --key ADMIN-KEY",
		Args:    oneClient,
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	yes := cmd.Flags().Bool("yes", false, "yes, erase it: this cannot be undone")
	noWait := cmd.Flags().Bool("no-wait", false, "return once the client is ended; the erasure goes on")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !*yes {
			return usagef("this erases all that client %s holds and cannot be undone: pass --yes", args[0])
		}
		var x proto.ClientErasure
		if err := c.call(cmd.Context(), http.MethodDelete, clientPath(args[0]), nil, nil, &x); err != nil {
			return err
		}
		var err error
		if !*noWait {
			x, err = awaitErased(cmd, c, x)
		}
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd, x)
		}
		printErasure(cmd, x)
		return nil
	}
	return cmd
}

func printErasure(cmd *cobra.Command, x proto.ClientErasure) {
	if x.Erased {
		printf(cmd, "erased %s: nothing of it is left\n", x.Client)
		return
	}
	printf(cmd, "%s is ended; %d identities are still to be gone through\n", x.Client, x.Left)
}

// awaitErased asks, without asking for an erasure again, until nothing is left.
func awaitErased(cmd *cobra.Command, c *connection, x proto.ClientErasure) (proto.ClientErasure, error) {
	spin := newSpinner(cmd.ErrOrStderr(), "erasing "+string(x.Client))
	defer spin.done()
	tick := time.NewTicker(statusEvery)
	defer tick.Stop()
	for !x.Erased {
		select {
		case <-tick.C:
		case <-cmd.Context().Done():
			return x, cmd.Context().Err()
		}
		spin.turn()
		next := proto.ClientErasure{}
		if err := c.call(cmd.Context(), http.MethodGet, clientPath(string(x.Client))+"/erasure", nil, nil, &next); err != nil {
			return x, err
		}
		x = next
	}
	return x, nil
}
