package gateway

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"kith/proto"
)

// serviceRoutes are what those with a key may ask.
func (g *Gateway) serviceRoutes() *plane {
	p := g.newPlane("service")
	p.wrap, p.guarded = g.audited, true
	client := func(h keyed) handler { return g.behindKey(h, proto.RoleClient, proto.RoleAdmin) }
	anyone := func(h keyed) handler { return g.behindKey(h, proto.RoleClient, proto.RoleReport, proto.RoleAdmin) }
	admin := func(h keyed) handler { return g.behindKey(h, proto.RoleAdmin) }
	get := func(h handler) map[string]handler { return map[string]handler{http.MethodGet: h} }
	post := func(h handler) map[string]handler { return map[string]handler{http.MethodPost: h} }

	p.add("/v1/events", post(client(g.serviceEvents)))
	p.add("/v1/lookup", post(client(g.postLookup))).asked(g, http.MethodPost)
	p.add("/v1/openrtb", post(client(g.postOpenRTB))).asked(g, http.MethodPost)
	p.segment = p.add("/v1/identities/{identity}/segments", get(client(g.getSegments))).asked(g, http.MethodGet)
	p.add("/v1/identities/{identity}", map[string]handler{http.MethodGet: client(g.getRecord), http.MethodDelete: client(g.deleteIdentity)}).asked(g, http.MethodGet)
	p.add("/v1/identities/{identity}/traits", map[string]handler{http.MethodPatch: client(g.heed(g.patchTraits))})
	p.add("/v1/identities/{identity}/explain", get(client(g.heed(g.getExplanation)))).asked(g, http.MethodGet)
	p.add("/v1/segments", get(client(g.listSegments))).asked(g, http.MethodGet)
	p.add("/v1/segments/{id}", map[string]handler{
		http.MethodGet: client(g.getSegment), http.MethodPut: client(g.putSegment), http.MethodDelete: client(g.deleteSegment),
	}).asked(g, http.MethodGet)
	p.add("/v1/links", map[string]handler{http.MethodPost: client(g.heed(g.postLink)), http.MethodDelete: client(g.deleteLink)})
	p.add("/v1/users/{identity}", get(client(g.heed(g.getUser)))).asked(g, http.MethodGet)
	p.add("/v1/optouts", map[string]handler{http.MethodPost: client(g.postOptOut), http.MethodGet: admin(g.getLedger)})
	p.add("/v1/optouts/{identity}", get(client(g.getOptOut))).asked(g, http.MethodGet)
	p.add("/v1/optins", post(client(g.postOptIn)))
	p.add("/v1/receipts/key", get(g.getReceiptKey))
	p.add("/v1/receipts/verify", post(client(g.verifyReceipt))).asked(g, http.MethodPost)
	p.add("/v1/erase", post(admin(g.postErase)))
	p.add("/v1/segments/{id}/sizes", get(client(g.getSizes))).asked(g, http.MethodGet)
	p.add("/v1/audiences/count", post(anyone(g.postCount))).asked(g, http.MethodPost)
	if g.deps.Exports != nil {
		p.add("/v1/audiences/export", post(client(g.postExport)))
	}
	p.add("/v1/audiences/overlap", post(client(g.postOverlap))).asked(g, http.MethodPost)
	p.add("/v1/audiences", get(client(g.listAudiences)))
	saved := p.add("/v1/audiences/{id}", map[string]handler{
		http.MethodGet: client(g.getAudience), http.MethodPut: client(g.putAudience), http.MethodDelete: client(g.deleteAudience),
	})
	for _, name := range audienceRoutes { // who would save an audience under one is told that by putAudience
		if rt, ok := p.quick["/v1/audiences/"+name]; ok {
			rt.methods[http.MethodPut] = func(w http.ResponseWriter, r *http.Request) error {
				r.SetPathValue("id", name)
				return saved.methods[http.MethodPut](w, r)
			}
		}
	}
	p.add("/v1/campaigns/report", post(anyone(g.postCampaign)))
	p.add("/v1/aggregates", get(anyone(g.getAggregates))).asked(g, http.MethodGet)
	p.add("/v1/leakage", get(client(g.getLeakage)))
	p.add("/v1/traits", post(client(g.heed(g.postTraits))))
	if g.deps.Imports != nil {
		p.add("/v1/imports", map[string]handler{http.MethodGet: client(g.listImports), http.MethodPost: client(g.postImport)})
		p.add("/v1/imports/check", post(client(g.checkImportRows)))
		p.add("/v1/imports/{id}", map[string]handler{http.MethodGet: client(g.getImport), http.MethodDelete: client(g.deleteImport)})
		p.add("/v1/imports/{id}/rows", post(client(g.heed(g.postImportRows))))
		p.add("/v1/imports/{id}/commit", post(client(g.commitImport)))
	}
	if g.deps.Feeds != nil {
		p.add("/v1/feed", get(client(g.getFeed)))
		p.add("/v1/feed/identities", post(client(g.postFeedNames)))
	}
	p.add("/v1/key", get(anyone(g.getKey)))
	if g.deps.Audit != nil {
		p.add("/v1/audit", get(admin(g.getAudit)))
	}
	p.add("/v1/keys", post(admin(g.postKey)))
	p.add("/v1/live", get(client(g.getLive)))
	p.add("/v1/clients", get(admin(g.listClients)))
	p.add("/v1/clients/{name}", map[string]handler{http.MethodDelete: admin(g.eraseClient)})
	p.add("/v1/clients/{name}/erasure", get(admin(g.getClientErasure)))
	p.add("/v1/clients/{name}/export", get(admin(g.exportClient)))
	p.add("/v1/deadletters", get(admin(g.listDeadLetters)))
	p.add("/v1/deadletters/{id}/replay", post(admin(g.replayDeadLetter)))
	p.add("/v1/partitions", get(admin(g.listPartitions)))
	if g.deps.Cluster != nil {
		p.add("/v1/cluster", get(admin(g.getCluster)))
		p.add("/v1/cluster/nodes/{name}", map[string]handler{http.MethodDelete: admin(g.forgetNode)})
		p.add("/v1/cluster/nodes/{name}/drain", map[string]handler{http.MethodPost: admin(g.drainNode(true)), http.MethodDelete: admin(g.drainNode(false))})
		p.add("/v1/cluster/lanes/{lane}/owner", map[string]handler{http.MethodPut: admin(g.placeLane), http.MethodDelete: admin(g.placeLane)})
	}
	p.add("/debug/pprof/{profile}", get(admin(g.getProfile)))
	if g.deps.Maintenance != nil {
		p.add("/v1/backup", post(admin(g.postBackup)))
		p.add("/v1/verify", get(admin(g.getVerify)))
	}
	p.add("/healthz", get(g.healthz))
	p.add("/readyz", get(g.readyz))
	p.add("/metrics", get(g.scrape()))
	g.addConsole(p)
	return p
}

func (g *Gateway) scrape() handler {
	h := promhttp.HandlerFor(g.deps.Registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
	return func(w http.ResponseWriter, r *http.Request) error {
		h.ServeHTTP(w, r)
		return nil
	}
}
