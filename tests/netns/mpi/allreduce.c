/* Sums vectors over all processes, many times, and compares each sum with the one that follows from the ranks. */

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

#define LEN 16384
#define NAME_MAX 64

static double value(int rank, int round, int index)
{
    return (double)(rank + 1) * (round % 7 + 1) + index % 1009;
}

static double sum(int count, int round, int index)
{
    return (double)count * (count + 1) / 2 * (round % 7 + 1) + (double)count * (index % 1009);
}

static void check_round(int rank, int count, int round)
{
    static double mine[LEN], all[LEN];
    for (int index = 0; index < LEN; index++)
        mine[index] = value(rank, round, index);
    MPI_Allreduce(mine, all, LEN, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    for (int index = 0; index < LEN; index++) {
        /* Whole numbers, far below 2^53: sums are exact in any order. */
        if (all[index] != sum(count, round, index)) {
            fprintf(stderr, "rank %d, round %d, index %d: %f\n", rank, round, index, all[index]);
            MPI_Abort(MPI_COMM_WORLD, 1);
        }
    }
}

static void tell(int rank, int count)
{
    char own[MPI_MAX_PROCESSOR_NAME] = "", name[NAME_MAX] = "";
    char *names = calloc(count, NAME_MAX);
    int len;
    MPI_Get_processor_name(own, &len);
    snprintf(name, sizeof name, "%.*s", NAME_MAX - 1, own);
    MPI_Gather(name, NAME_MAX, MPI_CHAR, names, NAME_MAX, MPI_CHAR, 0, MPI_COMM_WORLD);
    if (rank == 0) {
        printf("%d processes on", count);
        for (int other = 0; other < count; other++)
            printf(" %s", names + other * NAME_MAX);
        printf(": all sums are right\n");
    }
    free(names);
}

int main(int argc, char **argv)
{
    int rank, count, rounds = argc > 1 ? atoi(argv[1]) : 1;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &count);
    for (int round = 0; round < rounds; round++)
        check_round(rank, count, round);
    tell(rank, count);
    MPI_Finalize();
    return 0;
}
