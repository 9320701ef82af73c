// What answers the reads of an AXI port: when each beat may be offered.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "ddr4.h"
#include "random.h"

struct Burst {
    uint64_t address, beats;
};

class Memory {
public:
    virtual ~Memory() = default;
    // Whether a burst can be taken in this cycle.
    virtual bool ready() = 0;
    virtual void take(const Burst& burst, unsigned id, uint64_t cycle) = 0;
    // Time passes: the start of `cycle`.
    virtual void advance(uint64_t cycle) = 0;
    // Whether the next beat of `id` may be offered in `cycle`; its address.
    virtual bool available(unsigned id, uint64_t cycle, uint64_t& address) = 0;
    // The next beat of `id` is offered; returns whether it is its burst's last.
    virtual bool give(unsigned id) = 0;
    virtual bool empty() const = 0;
};

// A burst waits `low` to `high` cycles for its first beat; bursts of an ID in order.
class FixedMemory final : public Memory {
public:
    FixedMemory(unsigned ids, uint64_t beat_bytes, uint64_t low, uint64_t high, uint64_t seed)
        : queues_(ids), beat_bytes_(beat_bytes), low_(low), high_(high), random_(seed) {}

    bool ready() override { return true; }
    void take(const Burst& burst, unsigned id, uint64_t cycle) override {
        queues_[id].push_back({burst, cycle + random_.between(low_, high_), 0});
    }
    void advance(uint64_t) override {}
    bool available(unsigned id, uint64_t cycle, uint64_t& address) override {
        if (queues_[id].empty() || queues_[id].front().when > cycle) return false;
        const Held& held = queues_[id].front();
        address = held.burst.address + held.given * beat_bytes_;
        return true;
    }
    bool give(unsigned id) override {
        Held& held = queues_[id].front();
        const bool last = ++held.given == held.burst.beats;
        if (last) queues_[id].pop_front();
        return last;
    }
    bool empty() const override {
        for (const auto& queue : queues_)
            if (!queue.empty()) return false;
        return true;
    }

private:
    struct Held {
        Burst burst;
        uint64_t when, given;
    };
    std::vector<std::deque<Held>> queues_;
    uint64_t beat_bytes_, low_, high_;
    Random random_;
};

// DDR4 behind the port: accesses of 64 bytes in any order, data in order per ID.
class Ddr4Memory final : public Memory {
public:
    struct Path {
        uint64_t cycle_ps;               // of the port
        uint64_t request_ps, response_ps;  // from the port to the queue, from the data to the port
        uint64_t accepted;               // accesses that may wait before the controller's queue
    };

    Ddr4Memory(unsigned ids, uint64_t beat_bytes, const Ddr4Timing& timing, const Path& path)
        : queues_(ids), beat_bytes_(beat_bytes), timing_(timing), path_(path), ddr4_(timing) {}

    bool ready() override { return waiting_.size() < path_.accepted; }
    void take(const Burst& burst, unsigned id, uint64_t cycle) override {
        auto held = std::make_shared<Held>();
        held->burst = burst;
        const uint64_t size = Ddr4::ACCESS_BYTES, first = burst.address / size;
        const uint64_t last = (burst.address + burst.beats * beat_bytes_ - 1) / size;
        held->done.assign(last - first + 1, UINT64_MAX);
        for (uint64_t i = first; i <= last; ++i)
            waiting_.push_back({i * size, cycle * path_.cycle_ps + path_.request_ps, held, i - first});
        queues_[id].push_back(held);
    }
    void advance(uint64_t cycle) override {
        const uint64_t now = cycle * path_.cycle_ps;
        while (time_ + timing_.tck_ps <= now) {
            time_ += timing_.tck_ps;
            while (!waiting_.empty() && !ddr4_.full() && waiting_.front().when <= time_) {
                const uint64_t tag = next_tag_++;
                ddr4_.push(tag, waiting_.front().address);
                under_way_.push_back(waiting_.front());
                waiting_.pop_front();
            }
            done_.clear();
            ddr4_.tick(done_);
            for (const auto& done : done_) {
                Access& access = under_way_[done.tag - first_tag_];
                access.held->done[access.index] =
                    time_ + (done.clock - ddr4_.clock()) * timing_.tck_ps + path_.response_ps;
                access.held.reset();
            }
            while (!under_way_.empty() && !under_way_.front().held) {
                under_way_.pop_front();
                ++first_tag_;
            }
        }
    }
    bool available(unsigned id, uint64_t cycle, uint64_t& address) override {
        if (queues_[id].empty()) return false;
        const Held& held = *queues_[id].front();
        address = held.burst.address + held.given * beat_bytes_;
        const uint64_t size = Ddr4::ACCESS_BYTES;
        return held.done[address / size - held.burst.address / size] <= cycle * path_.cycle_ps;
    }
    bool give(unsigned id) override {
        Held& held = *queues_[id].front();
        const bool last = ++held.given == held.burst.beats;
        if (last) queues_[id].pop_front();
        return last;
    }
    bool empty() const override {
        for (const auto& queue : queues_)
            if (!queue.empty()) return false;
        return true;
    }

private:
    struct Held {
        Burst burst{};
        uint64_t given = 0;
        std::vector<uint64_t> done;  // ps at which each access is at the port
    };
    struct Access {
        uint64_t address, when;
        std::shared_ptr<Held> held;
        uint64_t index;
    };
    std::vector<std::deque<std::shared_ptr<Held>>> queues_;
    std::deque<Access> waiting_, under_way_;
    uint64_t beat_bytes_;
    const Ddr4Timing timing_;
    const Path path_;
    Ddr4 ddr4_;
    std::vector<Ddr4::Done> done_;
    uint64_t time_ = 0, next_tag_ = 0, first_tag_ = 0;
};
