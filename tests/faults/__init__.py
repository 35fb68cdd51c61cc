"""The fault kit: a running TacoQ and things that break it in; what was accepted, what ran and a verdict out.

Reading order: form (what the environment says), servers, seat and field (what is broken), ledger and load (what is
asked), effects and handlers (what ran), checker (the verdict), campaign (all of it at random). The tests stand beside
them.
"""
