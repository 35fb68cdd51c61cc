"""What application, manager and worker share: words, states, models, wire messages, topology and the broker port.

Reading order: states, errors, ids, durations, http, schedules, calls, messages, codec, topology, broker, brokers/.
"""
