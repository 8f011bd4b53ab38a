package main

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// lookupMax is how many identities the node takes in one request.
const lookupMax = 1000

type lookupResult struct {
	Identity string   `json:"identity"`
	Known    bool     `json:"known"`
	OptedOut bool     `json:"opted_out"`
	Segments []string `json:"segments"`
}

func newLookupCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "lookup IDENTITY…",
		Short:   "Segments of identities",
		Example: "  kith lookup browser:3f0c9a account:77 --key demo-key\n  kith lookup browser:3f0c9a --client demo --key dev-admin-key --json",
		Args:    atLeast(1, "one or more identities, such as browser:abc"),
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	after := afterFlag(cmd, afterAnswer)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		results, err := lookup(cmd, c, args, *after)
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd, map[string]any{"results": results})
		}
		return printLookup(cmd, results)
	}
	return cmd
}

func lookup(cmd *cobra.Command, c *connection, args []string, after string) ([]lookupResult, error) {
	if err := checkIdentities(args...); err != nil {
		return nil, err
	}
	query := url.Values{}
	if after != "" {
		query.Set("after", after)
	}
	results := []lookupResult{}
	for part := range slices.Chunk(args, lookupMax) {
		var out struct{ Results []lookupResult }
		if err := c.call(cmd.Context(), http.MethodPost, "/v1/lookup", query, map[string]any{"identities": part}, &out); err != nil {
			return nil, err
		}
		results = append(results, out.Results...)
	}
	return results, nil
}

func printLookup(cmd *cobra.Command, results []lookupResult) error {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	for _, r := range results {
		state := strings.Join(r.Segments, " ")
		switch {
		case r.OptedOut:
			state = "(opted out)"
		case !r.Known:
			state = "(unknown)"
		case state == "":
			state = "(in no segment)"
		}
		if _, err := w.Write([]byte(r.Identity + "\t" + state + "\n")); err != nil {
			return err
		}
	}
	return w.Flush()
}
