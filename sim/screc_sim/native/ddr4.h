// DDR4 memory and its controller, clock by clock: which 64-byte reads come back when.
//
// Timings are in DRAM clocks and come from the caller (screc_sim.native.ddr4 says where from). The
// controller is an ideal reordering one: of `queue` reads it serves row hits first, then the oldest
// (FR-FCFS), one command per clock, an open page until another row of its bank is wanted.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

struct Ddr4Timing {
    uint64_t tck_ps = 0;
    uint64_t trcd = 0, trp = 0, tcl = 0, tras = 0, trc = 0, trtp = 0;
    uint64_t trrd_s = 0, trrd_l = 0, tfaw = 0, tccd_s = 0, tccd_l = 0;
    uint64_t trefi = 0, trfc = 0;
    uint64_t burst = 0;          // clocks that the data bus is taken by a read
    uint64_t bank_groups = 0, banks = 0;  // banks per group
    uint64_t page_bytes = 0;     // of all devices of the bus together
    uint64_t bank_lowest = 0;    // 1: bank bits lie below the column bits (ROW_COLUMN_BANK)
    uint64_t queue = 0;          // reads the controller chooses from
    uint64_t age = 0;            // clocks after which a read's bank is kept for it
};

class Ddr4 {
public:
    static constexpr uint64_t ACCESS_BYTES = 64;  // burst of 8 on a 64-bit bus

    struct Done {
        uint64_t tag, clock;  // the clock in which its last data are there
    };

    explicit Ddr4(const Ddr4Timing& timing)
        : t_(timing), banks_(timing.bank_groups * timing.banks), next_act_l_(timing.bank_groups),
          next_read_l_(timing.bank_groups), next_refresh_(timing.trefi) {}

    bool full() const { return queue_.size() >= t_.queue; }
    bool empty() const { return queue_.empty(); }
    uint64_t clock() const { return clock_; }
    uint64_t activates() const { return activates_; }
    uint64_t reads() const { return reads_; }

    void push(uint64_t tag, uint64_t address) {
        const uint64_t block = address / ACCESS_BYTES, columns = t_.page_bytes / ACCESS_BYTES;
        const uint64_t count = banks_.size();
        const uint64_t bank = t_.bank_lowest ? block % count : block / columns % count;
        queue_.push_back({tag, block / columns / count, bank, bank % t_.bank_groups, clock_});
    }

    // One clock; appends to `done` the read that was issued, if any.
    void tick(std::vector<Done>& done) {
        ++clock_;
        if (clock_ < refresh_end_) return;
        if (clock_ >= next_refresh_) {
            refresh();
            return;
        }
        if (!read(done) && !activate()) precharge();
    }

private:
    struct Entry {
        uint64_t tag, row, bank, group, arrival;
    };
    struct Bank {
        bool open = false;
        uint64_t row = 0, act = 0, read = 0, pre = 0;  // first clock of each command
    };

    void refresh() {
        const bool any = std::any_of(banks_.begin(), banks_.end(), [](auto& b) { return b.open; });
        for (const Bank& bank : banks_)
            if (clock_ < (any ? (bank.open ? bank.pre : 0) : bank.act)) return;
        if (any) {
            for (Bank& bank : banks_)
                if (bank.open) close(bank);
            return;
        }
        refresh_end_ = clock_ + t_.trfc;
        next_refresh_ += t_.trefi;
    }

    bool read(std::vector<Done>& done) {
        if (clock_ < next_read_) return false;
        for (auto entry = queue_.begin(); entry != queue_.end(); ++entry) {
            Bank& bank = banks_[entry->bank];
            if (!bank.open || bank.row != entry->row || clock_ < bank.read) continue;
            if (clock_ < next_read_l_[entry->group]) continue;
            next_read_ = clock_ + std::max(t_.tccd_s, t_.burst);
            next_read_l_[entry->group] = clock_ + t_.tccd_l;
            bank.pre = std::max(bank.pre, clock_ + t_.trtp);
            done.push_back({entry->tag, clock_ + t_.tcl + t_.burst});
            ++reads_;
            queue_.erase(entry);
            return true;
        }
        return false;
    }

    bool activate() {
        if (clock_ < next_act_ || clock_ < act_before_[act_index_] + t_.tfaw) return false;
        for (const Entry& entry : queue_) {
            Bank& bank = banks_[entry.bank];
            if (bank.open || clock_ < bank.act || clock_ < next_act_l_[entry.group]) continue;
            bank.open = true;
            bank.row = entry.row;
            bank.read = clock_ + t_.trcd;
            bank.pre = clock_ + t_.tras;
            bank.act = clock_ + t_.trc;
            next_act_ = clock_ + t_.trrd_s;
            next_act_l_[entry.group] = clock_ + t_.trrd_l;
            act_before_[act_index_] = clock_;
            act_index_ = (act_index_ + 1) % 4;
            ++activates_;
            return true;
        }
        return false;
    }

    void precharge() {
        for (const Entry& entry : queue_) {
            Bank& bank = banks_[entry.bank];
            if (!bank.open || bank.row == entry.row || clock_ < bank.pre) continue;
            const bool old = clock_ - entry.arrival > t_.age;
            const bool hit = std::any_of(queue_.begin(), queue_.end(), [&](const Entry& other) {
                return other.bank == entry.bank && other.row == bank.row;
            });
            if (hit && !old) continue;
            close(bank);
            return;
        }
    }

    void close(Bank& bank) {
        bank.open = false;
        bank.act = std::max(bank.act, clock_ + t_.trp);
    }

    const Ddr4Timing t_;
    std::vector<Entry> queue_;
    std::vector<Bank> banks_;
    std::vector<uint64_t> next_act_l_, next_read_l_;
    uint64_t clock_ = 1000;  // so that no bound lies before 0
    uint64_t next_act_ = 0, next_read_ = 0, next_refresh_ = 0, refresh_end_ = 0;
    uint64_t act_before_[4] = {}, act_index_ = 0;
    uint64_t activates_ = 0, reads_ = 0;
};
