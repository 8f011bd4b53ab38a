package gateway

import (
	"context"
	"encoding/json"
	"math"
	"net/http"
	"strconv"
	"unicode/utf8"

	"kith/proto"
)

// importRequest is the body of POST /v1/imports.
type importRequest struct {
	Segment string `json:"segment"`
	Mode    string `json:"mode"`
	Scope   string `json:"scope"`
}

// toldImport is what a principal may know of an import.
func toldImport(who proto.Principal, i proto.Import) proto.ImportStatus {
	a := proto.ImportStatus{ID: strconv.FormatUint(i.Number, 10), Segment: i.Segment, Mode: i.Mode, State: i.State.String(), Opened: i.Opened, Reason: i.Reason}
	if i.State == proto.ImportBelow {
		a.Below = i.Floor
	}
	decided := i.State == proto.ImportMerging || i.State == proto.ImportDone || i.State == proto.ImportBelow
	switch {
	case who.Role == proto.RoleAdmin && decided:
		setFigures(&a, i.Identities, i.Matched)
	case i.ToldIdentities > 0:
		setFigures(&a, i.ToldIdentities, i.ToldMatched)
		a.Rounded = i.Rounded
	}
	return a
}

func setFigures(a *proto.ImportStatus, identities, matched uint64) {
	a.Identities, a.Matched = &identities, &matched
	if identities > 0 {
		rate := math.Round(100*float64(matched)/float64(identities)) / 100
		a.Rate = &rate
	}
}

func (g *Gateway) postImport(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	client, err := g.clientOf(who, r)
	if err != nil {
		return err
	}
	var x importRequest
	if err := g.readValue(w, r, &x); err != nil {
		return err
	}
	spec := proto.ImportSpec{Scope: x.Scope}
	if spec.Segment, err = proto.ParseSegmentID(x.Segment); err != nil {
		return err
	}
	if err = g.refuseLabel(client, keptSegment, x.Segment); err != nil {
		return err
	}
	if spec.Mode, err = proto.ParseImportMode(x.Mode); err != nil {
		return err
	}
	i, err := g.deps.Imports.BeginImport(defining(r, who), client, spec)
	if err != nil {
		return g.countLimited(err)
	}
	return writeValue(w, http.StatusCreated, toldImport(who, i))
}

func (g *Gateway) listImports(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	client, err := g.clientOf(who, r)
	if err != nil {
		return err
	}
	list := []proto.ImportStatus{}
	for _, i := range g.deps.Imports.Imports(client) {
		list = append(list, toldImport(who, i))
	}
	return writeValue(w, http.StatusOK, map[string]any{"imports": list})
}

// importNumber is the import that a path names.
func importNumber(r *http.Request) (uint64, error) {
	id := r.PathValue("id")
	n, err := strconv.ParseUint(id, 10, 64)
	if err != nil || n == 0 {
		return 0, noImport(id)
	}
	return n, nil
}

func noImport(id string) error {
	return proto.Errorf(proto.CodeNotFound, "there is no import %q: GET /v1/imports (`kith import list`) lists them", clip(id))
}

// importOf is the client and the number of the import that a request is about.
func (g *Gateway) importOf(r *http.Request, who proto.Principal) (proto.ClientInfo, uint64, error) {
	number, err := importNumber(r)
	if err != nil {
		return proto.ClientInfo{}, 0, err
	}
	client, err := g.clientOf(who, r)
	return client, number, err
}

func (g *Gateway) getImport(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	client, number, err := g.importOf(r, who)
	if err != nil {
		return err
	}
	for _, i := range g.deps.Imports.Imports(client) {
		if i.Number == number {
			return writeValue(w, http.StatusOK, toldImport(who, i))
		}
	}
	return noImport(r.PathValue("id"))
}

func (g *Gateway) deleteImport(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	client, number, err := g.importOf(r, who)
	if err != nil {
		return err
	}
	if err := g.deps.Imports.EndImport(r.Context(), client, number); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, []byte(`{"deleted":true}`+"\n"))
	return nil
}

// commitImport has an import judged. From a client's key fewer people than the
// floor are not activated.
func (g *Gateway) commitImport(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	client, number, err := g.importOf(r, who)
	if err != nil {
		return err
	}
	i, err := g.deps.Imports.CommitImport(r.Context(), client, number, g.floorFor(who, client))
	switch {
	case err != nil:
		return err
	case i.State == proto.ImportBelow:
		return proto.Errorf(proto.CodeBelow, "with this import fewer than %d people of the list would be known to this client otherwise: nothing was changed. Import a list that matches more", i.Floor)
	case !i.State.Final():
		return writeValue(w, http.StatusAccepted, toldImport(who, i))
	}
	return writeValue(w, http.StatusOK, toldImport(who, i))
}

// importRows is a body of identities.
type importRows struct {
	Identities []string `json:"identities"`
}

// postImportRows takes rows of an import.
func (g *Gateway) postImportRows(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	number, err := importNumber(r)
	if err != nil {
		return err
	}
	parse := func(p *post, body []byte) error { return p.parseImportRows(body, number) }
	return g.takeRows(w, r, who, parse, func(ctx context.Context, client proto.ClientInfo, b *proto.Batch) (proto.Submitted, error) {
		return g.deps.Imports.AddToImport(ctx, client, number, b)
	})
}

// checkImportRows says which rows an import would refuse, and does nothing: what
// it answers depends on the rows alone.
func (g *Gateway) checkImportRows(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	return g.takeRows(w, r, who, func(p *post, body []byte) error { return p.parseImportRows(body, 0) }, nil)
}

// takeRows reads a body of rows of JSON and makes them durable by way of take; nil:
// they are checked only.
func (g *Gateway) takeRows(w http.ResponseWriter, r *http.Request, who proto.Principal, parse func(*post, []byte) error,
	take func(context.Context, proto.ClientInfo, *proto.Batch) (proto.Submitted, error)) error {
	client, err := g.clientOf(who, r)
	if err != nil {
		return err
	}
	p := g.newPost()
	defer g.freePost(p)
	p.client, p.known = client, true
	body, err := g.readJSON(w, r)
	if err != nil {
		return err
	}
	if !utf8.Valid(body) {
		return proto.Errorf(proto.CodeJSON, "the body is not valid UTF-8")
	}
	if err := parse(p, body); err != nil {
		return err
	}
	var pos proto.Position
	if take != nil {
		pos, err = g.submitTo(r.Context(), false, p, func(ctx context.Context, b *proto.Batch) (proto.Submitted, error) {
			return take(ctx, client, b)
		})
	} else {
		if n := p.events - len(p.free); n > 0 { // of those that are refused it is what is wanted
			var day proto.Day
			if day, err = g.admitRate(false, client, n); err == nil {
				g.giveBackDay(client, day, n) // nothing is stored
			}
		}
	}
	if err != nil {
		return err
	}
	p.answer = p.appendAnswer(p.answer, pos, len(p.refused), 0)
	writeJSON(w, http.StatusOK, p.answer)
	return nil
}

// parseImportRows makes commands of the rows of an import.
func (p *post) parseImportRows(body []byte, number uint64) error {
	var x importRows
	if err := decodeStrict(body, &x); err != nil {
		return err
	}
	if err := p.countRows(len(x.Identities), `{"identities":["account:…"]}`); err != nil {
		return err
	}
	traits := proto.Traits{
		Client: p.client.ID, Space: p.client.Space, Received: p.now,
		Set: []proto.Prop{{Key: proto.StagedTrait(number), Value: proto.FlagOf(true)}},
	}
	for i, s := range x.Identities {
		id, err := p.rowIdentity(s)
		if err != nil {
			p.refuseRow(i, err)
			continue
		}
		traits.Identity = id
		p.addTraits(&traits, i)
	}
	return nil
}

func (p *post) countRows(n int, example string) error {
	switch {
	case n == 0:
		return proto.Errorf(proto.CodeJSON, "the body has no rows: send %s", example)
	case n > p.max:
		return proto.Errorf(proto.CodeTooLarge, "the body has more than %d rows: send several", p.max)
	}
	p.events = n
	return nil
}

func (p *post) refuseRow(i int, err error) {
	e := asError(err)
	p.refused = append(p.refused, refusal{i, e.Code, e.Message})
}

// rowIdentity checks the identity of a row of a client's own file.
func (p *post) rowIdentity(s string) (proto.Identity, error) {
	if what := personalIdentity(s); what != "" {
		return "", proto.Errorf(proto.CodePII, "the identity looks like %s: send a keyed hash as account: instead", what)
	}
	id, err := parseIdentity(s)
	if err != nil {
		return "", err
	}
	if placeholder(s) {
		return "", &proto.Error{Code: proto.CodeIdentity, Message: placeholderText}
	}
	if _, shared := p.blocked[id]; shared {
		return "", proto.Errorf(proto.CodeIdentity, "the identity is on the block list: many people share it")
	}
	return id, nil
}

// traitRows is a body of identities with traits.
type traitRows struct {
	Rows []struct {
		Identity string          `json:"identity"`
		Traits   json.RawMessage `json:"traits"`
	} `json:"rows"`
}

// postTraits sets traits of many identities, each by the rules of a single one.
func (g *Gateway) postTraits(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	take := func(ctx context.Context, _ proto.ClientInfo, b *proto.Batch) (proto.Submitted, error) {
		return g.deps.Intake.Submit(ctx, b), nil
	}
	if dry, err := dryRun(r); err != nil {
		return err
	} else if dry {
		take = nil
	}
	return g.takeRows(w, r, who, (*post).parseTraitRows, take)
}

func (p *post) parseTraitRows(body []byte) error {
	var x traitRows
	if err := decodeStrict(body, &x); err != nil {
		return err
	}
	if err := p.countRows(len(x.Rows), `{"rows":[{"identity":"account:…","traits":{"city":"Bern"}}]}`); err != nil {
		return err
	}
	for i := range x.Rows {
		id, err := p.rowIdentity(x.Rows[i].Identity)
		traits := proto.Traits{Client: p.client.ID, Space: p.client.Space, Identity: id, Received: p.now}
		if err == nil {
			err = p.parseTraits(x.Rows[i].Traits, &traits)
		}
		if err == nil {
			err = personalTraits(traits.Set)
		}
		if err != nil {
			p.refuseRow(i, err)
			continue
		}
		p.addTraits(&traits, i)
	}
	return nil
}

// personalTraits refuses what must not be in a file of traits.
func personalTraits(set []proto.Prop) error {
	for i := range set {
		text := set[i].Value.Text
		if x := set[i].Value; x.Kind == proto.NumberValue && x.Number == math.Trunc(x.Number) {
			text = strconv.FormatFloat(x.Number, 'f', -1, 64)
		}
		if what := PersonalCell(text); what != "" {
			return proto.Errorf(proto.CodePII, "trait %q holds %s: leave it out", clip(set[i].Key), what)
		}
	}
	return nil
}
